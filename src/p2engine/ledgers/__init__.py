"""Drivers of the port `Ledger`. Each knows the ports and one thing outside."""
