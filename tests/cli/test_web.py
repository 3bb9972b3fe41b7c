"""``xpsr web``: how the server begins and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.files.leftovers import temporary_name
from xpsr_sdk.web.files import PREFIX


def test_others_are_let_in_only_with_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XPSR_WEB_AUTH", raising=False)
    result = CliRunner().invoke(xpsr, ["web", "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "a password is required: set XPSR_WEB_AUTH=name:password" in result.stderr
    (tmp_path / "users").write_text("# comment\nann\n")
    result = CliRunner().invoke(xpsr, ["web", "--auth-file", str(tmp_path / "users")])
    assert (result.exit_code, "line 2, is not name:password" in result.stderr) == (2, True)
    monkeypatch.setenv("XPSR_WEB_AUTH", "ann:")
    result = CliRunner().invoke(xpsr, ["web"])
    assert (result.exit_code, "XPSR_WEB_AUTH, line 1" in result.stderr) == (2, True)
    assert "--auth " not in CliRunner().invoke(xpsr, ["web", "--help"]).stdout


def test_a_port_that_is_taken_and_a_limit_out_of_range_are_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(xpsr, ["web", "--port", str(port), "--model", "none"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Starting")  # since loading libraries takes a while
    assert f"127.0.0.1:{port} cannot be listened at" in result.stderr
    assert CliRunner().invoke(xpsr, ["web", "--keep-minutes", "0"]).exit_code == 2
    assert "no model 'nan0'" in CliRunner().invoke(xpsr, ["web", "--model", "nan0"]).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can act on")
def test_the_server_ends_with_its_files_and_removes_those_of_one_that_was_killed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    of_killed = tmp_path / temporary_name(PREFIX).replace(str(os.getpid()), str(ended.pid), 1)
    of_killed.mkdir()
    command = [sys.executable, "-m", "xpsr_sdk", "web", "--port", "0", "--model", "none"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert found
        assert not of_killed.exists()
        assert httpx.get(f"{found[0]}/health", timeout=60).json()["status"] == "ok"
        assert httpx.get(f"{found[0]}/health", headers={"Host": "evil.example"}, timeout=60).status_code == 403
        assert [each for each in tmp_path.iterdir() if each.name.startswith(PREFIX)] != []
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 143
    assert [each for each in tmp_path.iterdir() if each.name.startswith(PREFIX)] == []
