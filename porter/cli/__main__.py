"""`python -m porter.cli` is the command `porter`."""

from porter.cli.main import main

main()
