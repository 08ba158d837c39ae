"""Tables for the terminal. Everything shown is read from what the called part returned."""
