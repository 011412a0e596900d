"""What the tests of looking commands look at: a keeper who pays, saves and delegates by rule."""

from __future__ import annotations

from tests.cli.project import AGENTS, Project, Run

PARIS = "What's the weather in Paris?"
TOKYO = "Delegate to agent_helper: What's the weather in Tokyo?"
EVIL = "\x1b[31mred\x1b[0m [bold]x[/bold] \u202etxt {{ 7*7 }} <script>alert(1)</script>"

KEEPER = (
    AGENTS
    + r"""
  - id: keeper
    type: rule
    tools: [save_artifact, pay, delegate]
    delegates_to: [agent_helper]
    rules:
      - regex: "^save (\\S+) ((?s:.*))"
        tool: save_artifact
        arguments: {name: "{{ groups[0] }}", content: "{{ groups[1] }}"}
      - contains: "pay"
        tool: pay
        arguments: {to: "bob"}
      - contains: "weather"
        delegate: agent_helper
    default: "I heard: {{ message }}"
"""
)
PAY = '''\
"""A tool whose calls cannot be taken back."""

from p2engine import function_tool


@function_tool
def pay(to: str) -> str:
    """Pay somebody."""
    return f"paid {to}"
'''


def keeper(project: Project) -> None:
    """A project with an agent `keeper`."""
    project.write("config/agents.yml", KEEPER)
    project.write("tools/pay.py", PAY)


def say(run: Run, name: str, *messages: str, agent: str = "keeper") -> None:
    """Talk to an agent until it has answered."""
    done = run("chat", "with", agent, "--name", name, *(word for text in messages for word in ("-m", text)))
    assert done.status == 0, done.err
