"""The command ``xpsr``: its subcommands, each imported when it is used, and how errors are printed."""

from __future__ import annotations

import io
import logging
import os
import sys
from importlib import import_module
from typing import Any

import click

from xpsr_sdk import __version__
from xpsr_sdk.errors import CheckpointError, ConfigError, PluginError, XPSRError, did_you_mean, one_line, visible
from xpsr_sdk.plugin_system.discovery import damaged_distributions

# diffusers imports bitsandbytes even if nobody asks for it, which then tells on standard error what it lacks. Here, and
# not in the command, so that it holds for worker processes, too, which import the program again.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

SUMMARIES = {
    "upscale": "Restore and enlarge photos.",
    "caption": "Describe a folder of photos ahead of time.",
    "train": "Train a model with a config file.",
    "ablate": "Train with and without each part of XPSR, and compare.",
    "bench": "Measure how much faster each optimization of the engine is.",
    "evaluate": "Measure restored photos, and compare methods.",
    "compare": "Restore data sets with several methods, and compare them.",
    "data": "Prepare the photos and prompts that training needs.",
    "web": "Restore photos on a web page.",
    "plugins": "List the parts that can be chosen, and their options.",
}
"""Each subcommand and its line in the help. The command NAME is in the module ``xpsr_sdk.cli.NAME``."""


class LazyGroup(click.Group):
    """Imports a subcommand when it is invoked, to keep ``xpsr --help`` quick, and prints errors as one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUMMARIES:
            return None
        if damaged_distributions():
            _disable_plugins_of_libraries()
        command: click.Command = getattr(import_module(f"xpsr_sdk.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in SUMMARIES:
            ctx.fail(f"No such command {args[0]!r}. {did_you_mean(args[0], SUMMARIES)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))

    def invoke(self, ctx: click.Context) -> Any:
        _speak_to_any_output()
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read the output has had enough: click ends quietly
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from xpsr_sdk.cli.terminal import print_traceback  # not for --help, since it loads rich

            print_traceback()
            raise _in_one_sentence(error) from error


class WrongUse(click.ClickException):
    """An error that the user can fix by changing the command."""

    exit_code = 2


def _speak_to_any_output() -> None:
    """Let characters that the output's encoding lacks be escaped, as file names may hold them on a Windows pipe."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _disable_plugins_of_libraries() -> None:
    """Stop pydantic and torch from looking for their own plug-ins, which fails if any entry points are damaged."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


def _in_one_sentence(error: Exception) -> click.ClickException:
    if isinstance(error, ConfigError | PluginError | CheckpointError):
        return WrongUse(str(error))
    if isinstance(error, XPSRError):
        return click.ClickException(str(error))
    if isinstance(error, OSError) and error.errno and error.filename is not None:  # a path of the user's
        return click.ClickException(visible(f"{error.filename}: {error.strerror}."))
    damaged = damaged_distributions()  # usually none; if there are any, triton fails, which torch imports
    hint = f"install {', '.join(damaged)} again, whose entry points are damaged" if damaged else "please report it"
    return click.ClickException(f"Unexpected {visible(one_line(error))} (XPSR_TRACEBACK=1 shows where; {hint})")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="xpsr")
def xpsr() -> None:
    """Restore photos with diffusion models. Every part of them can be replaced.

    Exit codes: 0: success; 1: something failed, the rest was done; 2: wrong usage, option, plug-in or model.
    """
