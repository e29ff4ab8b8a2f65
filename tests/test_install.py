"""What surrounds the package: completion, manual page, optional packages, scripts, containers, the notebook."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from midframe.extras import install_command, requirements

ROOT = Path(__file__).resolve().parent.parent


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = run(sys.executable, "-m", "midframe", "completion", shell)
    assert done.returncode == 0 and "_MIDFRAME_COMPLETE" in done.stdout


def test_bash_completes_commands_and_options() -> None:
    done = run(
        sys.executable, "-c", "from midframe.cli import cli; cli(prog_name='midframe')",
        _MIDFRAME_COMPLETE="bash_complete", COMP_WORDS="midframe interpolate --slow", COMP_CWORD="2",
    )  # fmt: skip
    assert {"plain,--slowmo", "plain,--slow-audio"} <= set(done.stdout.split())


def test_the_manual_page_is_that_of_the_command_line() -> None:
    code = "import runpy; print(runpy.run_path('scripts/man-page')['page'](), end='')"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == (ROOT / "docs" / "midframe.1").read_text(), "run scripts/man-page"


def test_missing_packages_are_named_by_a_command_that_works_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/somewhere/else")
    assert any(package.startswith("fastapi") for package in requirements("web"))
    assert install_command("web").startswith("pip install 'fastapi")
    monkeypatch.setattr(sys, "prefix", str(ROOT / ".venv"))
    assert install_command("web") == f"{ROOT / 'scripts' / 'setup'} web"


def test_scripts_parse() -> None:
    for script in ("midframe", "setup", "test", "docs", "build-native"):
        assert run("bash", "-n", str(ROOT / "scripts" / script)).returncode == 0


def test_containers_name_files_that_exist() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "COPY . /src" in dockerfile and (ROOT / "pyproject.toml").exists()
    compose = (ROOT / "compose.yaml").read_text()
    options = run(sys.executable, "-m", "midframe", "serve", "--help").stdout
    assert all(word in options for word in ("--host", "--port", "--name", "--data") if word in compose)


def test_the_notebook_runs() -> None:
    cells = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    repeated, made = (float(word.split()[1]) for word in done.stdout.splitlines()[0].split(", "))
    assert made > repeated + 2
