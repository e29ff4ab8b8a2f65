"""`midframe completion`: the script that makes a shell complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  eval "$(midframe completion bash)"        in ~/.bashrc
    zsh:   eval "$(midframe completion zsh)"         in ~/.zshrc
    fish:  midframe completion fish > ~/.config/fish/completions/midframe.fish
    """
    from midframe.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "midframe", "_MIDFRAME_COMPLETE").source())
