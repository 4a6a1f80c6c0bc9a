"""`python -m porter.cli` is the command `porter`."""

from porter.cli.command import main

main()
