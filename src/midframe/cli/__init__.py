"""The command line. One file a command; each is imported only when it is called, so `--help` stays quick."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from midframe.process import configure

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

# name -> (module in this package, one-line help); the command object in the module is `command`.
COMMANDS: dict[str, tuple[str, str]] = {
    "interpolate": ("interpolate", "Interpolate video: any frame rate, slow motion, an image pair."),
    "batch": ("batch", "Interpolate many videos from a list or a folder, with one report."),
    "probe": ("probe", "Show what a file is, and the plan and time for it."),
    "compare": ("compare", "Compare two videos or images: side by side, difference, slider."),
    "demo": ("demo", "Render a short scene and interpolate it; works offline."),
    "serve": ("serve", "Web page and HTTP API."),
    "eval": ("eval", "Evaluate models on data sets beside baselines; HTML report."),
    "train": ("train", "Train midnet, or fine-tune it on your clips."),
    "models": ("models", "List, fetch and verify models."),
    "completion": ("completion", "Shell completion for bash, zsh or fish."),
    "doctor": ("doctor", "Check this machine: devices, encoders, speed."),
}

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def take(kind: type[T], keywords: dict[str, Any]) -> T:
    """Move the values of a dataclass out of a command's keywords."""
    return kind(**{field.name: keywords.pop(field.name) for field in fields(kind)})


class PathCommand(click.Command):
    """A command whose paths may begin with a dash: an argument that is no option and is a file means the file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give such files a leading `./` before click reads the arguments."""
        options = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        literal = args.index("--") if "--" in args else len(args)
        for i, arg in enumerate(args[:literal]):
            if arg.startswith("-") and len(arg) > 2 and arg.split("=")[0] not in options and os.path.lexists(arg):
                args[i] = os.path.join(".", arg)
        return super().parse_args(ctx, args)


class LazyGroup(click.Group):
    """A click group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are listed in `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"midframe.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does, with a suggestion for a mistyped name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            if os.path.exists(args[0]):
                ctx.fail(f"No such command '{args[0]}'. To interpolate this file: midframe interpolate '{args[0]}'")
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="midframe")
def cli() -> None:
    """Video frame interpolation and frame-rate conversion.

    \b
    midframe demo                         see it work, offline
    midframe interpolate clip.mp4         twice the rate
    midframe interpolate clip.mp4 --fps 60
    """


def main() -> None:
    """Run a command, and turn midframe's errors into one line and an exit code."""
    from midframe.cli.progress import error_text
    from midframe.errors import MidframeError

    configure()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names that are not UTF-8 are shown with escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        cli(standalone_mode=False)
        sys.stdout.flush()
    except MidframeError as error:
        _say(error_text(error))
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say("stopped")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # whoever read our output has gone (`midframe probe x | head -1`); nothing is left to be said to them
        _abandon_stdout()
        sys.exit(1)
    except OSError as error:
        _abandon_stdout()
        _say(f"{error.filename or 'the standard output'} cannot be written: {error.strerror or error}")
        sys.exit(3)
    except MemoryError as error:
        _say(error_text(error, "out of memory; try --tile 512, or a smaller frame"))
        sys.exit(5)


def _abandon_stdout() -> None:
    """Discard buffered output, so that the interpreter's own flush at its end cannot fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    """Print one line to stderr, whatever the terminal can show."""
    line = " ".join(text.split())
    click.echo(f"midframe: {line}", err=True)
