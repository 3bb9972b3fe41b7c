"""What the tests of ``xpsr upscale`` share."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support import tiny
from tests.support.upscale_command import Run
from xpsr_sdk.cli.main import xpsr


@pytest.fixture
def run(tiny_model: Path) -> Run:
    """Runs ``xpsr upscale`` with the tiny model."""

    def run(*arguments: object, model: Path | None = tiny_model) -> Result:
        chosen = ["--model", model, "--device", "cpu"] if model else []
        return CliRunner().invoke(xpsr, ["upscale", *map(str, [*arguments, *chosen])])

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    tiny.photo(20, 16).save(folder / "one.png")
    tiny.photo(17, 24, seed=1).save(folder / "trip" / "two.jpg")
    return folder
