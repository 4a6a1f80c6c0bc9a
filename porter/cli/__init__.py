"""The command line. `main` is the command; each subcommand is a module beside this one, loaded when it is called."""

from porter.cli.command import main

__all__ = ["main"]
