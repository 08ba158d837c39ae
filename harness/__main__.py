"""`python -m harness` is `specdrift`."""

from harness.cli import main

main()
