"""``xpsr``: what all commands share."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from xpsr_sdk.cli.main import SUMMARIES, xpsr


@pytest.mark.parametrize("command", [[], *([name] for name in SUMMARIES), ["data", "prepare"], ["plugins", "show"]])
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(xpsr, [*command, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert "--help" in result.stdout
