"""`python -m p2engine`: the command line."""

from p2engine.cli.main import run

if __name__ == "__main__":
    run()
