"""Peers beside ours, in the same session. Placeholder until peers/run.py is there."""
def run_peers(**_): return []
