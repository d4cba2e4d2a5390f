"""``python -m genpolicy``: the command line."""

from genpolicy.cli import main

main()
