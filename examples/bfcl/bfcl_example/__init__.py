"""BFCL multi-turn as a p2engine plug-in: tools over its classes, scripted agents, a check. Needs `bfcl-eval`."""
