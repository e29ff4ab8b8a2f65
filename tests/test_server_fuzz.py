"""The OpenAPI document against the server: whatever schemathesis makes of it, no answer is a 5xx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import server_fakes
from test_server_kill import DONE, Server, fake  # skips this file too where the web extra is absent

pytest.importorskip("schemathesis")

# Random identifiers are answered with 404 and reach no further; these exist.
CONFIG = """
[[operations]]
include-path-regex = "^/api/v1/sources/"
parameters = {{ id = "{source}" }}
[[operations]]
include-path-regex = "^/api/v1/jobs/"
parameters = {{ id = "{job}" }}
"""


@pytest.mark.slow
def test_no_5xx(tmp_path: Path) -> None:
    with Server(fake, tmp_path / "data") as server:
        source = server.upload(server_fakes.video(steps=2))
        job = server.http.post("/jobs", json={"source": source}).json()["id"]
        server_fakes.wait_for(lambda: server.http.get(f"/jobs/{job}").json()["state"], lambda state: state in DONE)
        (tmp_path / "config.toml").write_text(CONFIG.format(source=source, job=job))
        url = f"http://127.0.0.1:{server.port}/api/v1/openapi.json"
        program = str(Path(sys.executable).with_name("schemathesis"))
        common = [
            url,
            "--checks",
            "not_a_server_error",
            "--seed",
            "1",
            "--exclude-path",
            "/api/v1/events",
        ]  # it has no end
        known = [program, "--config-file", "config.toml", "run", *common, "--exclude-method", "DELETE"]
        anything = [program, "run", *common]
        for command in (known, anything):
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
            print(done.stdout[-1500:])
            assert done.returncode == 0, done.stdout
        assert server.http.get("/server").status_code == 200
