"""How fast it is, beside what the machine can do and what others cost. No part of the package, nor of its tests."""
