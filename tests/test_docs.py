"""README and guide: commands that parse, links that lead somewhere, options as the command line has them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from midframe.cli import cli

ROOT = Path(__file__).resolve().parent.parent
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", *GUIDE]
RETIRED = r"\b(films?|wish(es)?|doubts?|guess(es|ed)|farms?|methods|judge[sd]?|methods?|is told|of which)\b"


def _commands(page: Path) -> list[str]:
    """Lines of code that call midframe, without comments and continuation."""
    lines = []
    for block in re.findall(r"```(?:sh|text)?\n(.*?)```|((?:^    .*\n)+)", page.read_text(), re.S | re.M):
        lines += [line.strip() for text in block for line in text.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if re.match(r"(scripts/)?midframe \w", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_have_options_that_exist(page: Path) -> None:
    for line in _commands(page):
        words = shlex.split(line)[1:]
        context = click.Context(cli)
        name, *rest = words
        command = cli.get_command(context, name)
        assert command is not None, f"{page.name}: {line}"
        parser = command.make_parser(click.Context(command))
        try:
            parser.parse_args(list(rest))
        except click.UsageError as error:
            pytest.fail(f"{page.name}: {line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_options_page_is_that_of_the_command_line() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import runpy; print(runpy.run_path('scripts/options-page')['page'](), end='')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == (ROOT / "docs" / "guide" / "options.md").read_text(), "run scripts/options-page"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_retired_words(page: Path) -> None:
    if page.stem == "options":
        pytest.skip("generated from the help texts, which have a test of their own")
    found = re.findall(RETIRED, re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.I)
    assert not found, found


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
