"""The command `porter`: finds the subcommand, turns what goes wrong into a few plain lines and an exit code.

0 done and checked; 1 a check failed or a budget was missed; 2 bad input or usage; 3 could not be decided, or not
everything could be checked; 130 interrupted.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from importlib import import_module
from typing import Any, NoReturn

import click

from porter.errors import PorterError

# name: what `porter --help` says. The module of that name beside this one defines `command`.
COMMANDS = {
    "port": "Port a model to one or more targets; every step is checked.",
    "check": "Decide whether two models mean the same.",
    "compare": "Compare a model on devices: what runs, latency, cost, error.",
    "bisect": "Name the first step that breaks a model, and the first rewrite in it.",
    "reduce": "Shrink a failing pair of models to a few nodes.",
    "run": "Run a bundle on inputs.",
    "inspect": "Show what is in a model or a bundle.",
    "targets": "List devices, or the facts about one and their sources.",
    "opt": "Run passes over a model, or say why one did not fire.",
    "new": "Scaffold a pass, a target or a device of your own.",
}


class _Commands(click.Group):
    """Subcommands that cost nothing until they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"porter.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1) or ["--help"]
            raise PorterError(
                f"porter has no command '{args[0]}'", expected=", ".join(COMMANDS), hint=f"porter {near[0]}"
            )
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"porter {version('onnx-porter')}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def porter() -> None:
    """Ports ONNX models to NVIDIA GPUs, Google TPUs, AWS Trainium and Maia-like devices, and shows its work."""


def _again(lost: Any) -> None:
    """An interruption that fell into a callback of the garbage collector, where nothing can be raised, comes again."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.02, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command and exit. Nothing that a user can cause ends in a traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.unraisablehook = _again
    try:
        code = porter.main(args, prog_name="porter", standalone_mode=False)
        sys.stdout.flush()
    except PorterError as e:
        print(e, file=sys.stderr)
        code = e.exit_code
    except click.exceptions.NoArgsIsHelpError as e:
        print(e.format_message())
        code = 2
    except click.ClickException as e:
        where = e.ctx.command_path if isinstance(e, click.UsageError) and e.ctx else "porter"
        print(PorterError(e.format_message().rstrip("."), hint=f"{where} --help"), file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, click.exceptions.Abort):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
        print("interrupted; nothing was left behind", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `porter targets | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except MemoryError:
        print(PorterError("out of memory", hint="fewer samples, or a machine with more memory"), file=sys.stderr)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)
