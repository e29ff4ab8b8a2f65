"""The command line. One file a command; each is imported only when it is called, so `--help` stays quick."""

from __future__ import annotations

import difflib
import importlib
import sys

import click

# name -> (module in this package, one-line help); the command object in the module is `command`.
COMMANDS: dict[str, tuple[str, str]] = {}


class LazyGroup(click.Group):
    """A click group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they are listed in `COMMANDS`."""
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
        """As click does, with a suggestion for a mistyped name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        if not COMMANDS:
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="midframe")
def cli() -> None:
    """Smoother video at any rate, with nothing of the film lost on the way."""


def main() -> None:
    """Entry point: runs a command and turns midframe's errors into one line and an exit code."""
    from midframe.errors import MidframeError

    try:
        cli(standalone_mode=True)
    except MidframeError as error:
        click.echo(f"midframe: {error}", err=True)
        sys.exit(error.exit_code)
