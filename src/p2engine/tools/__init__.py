"""Functions with a name: how one is declared, found, checked and run. Knows ports; no engine, agent or store."""
