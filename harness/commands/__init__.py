"""What each command declares, calls and prints; `harness/cli.py` gives them their names."""
