"""Ablations: which runs are made of a config, and what is told about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.support import tiny
from xpsr_sdk.cli.main import xpsr


@pytest.fixture
def file(tmp_path: Path, pairs: Path) -> Path:
    """A config that trains a tiny base from scratch."""
    tiny.write_configs(tmp_path / "base")
    file = tmp_path / "tiny.toml"
    file.write_text(
        f'output = "{tmp_path / "runs"}"\nsteps = 500\nbatch_size = 1\ndevice = "cpu"\ntrackers = []\nlog_every = 1\n'
        f'[model]\nbase = "{tmp_path / "base"}"\nbackbone = "residual"\nfrom_scratch = true\n'
        f'conditioning_widths = [4, 8, 8]\ntrain = ["unet.*", "controlnet.*", "text_encoder.*"]\n'
        f'[data]\nfolders = ["{pairs}"]\ncrop = 32\n'
        f'[validation]\nfolders = ["{pairs}"]\nimages = 1\ncrop = 64\nsettings = {{num_inference_steps = 1}}\n'
    )
    return file


def ablate(*arguments: object) -> Result:
    return CliRunner().invoke(xpsr, ["ablate", *map(str, arguments)])


def changed(folder: Path, **fields: Any) -> bool:
    values = json.loads((folder / "seed-0" / "config.json").read_text())
    return all(values[section].get(name) == value for section, of in fields.items() for name, value in of.items())


def test_every_variant_is_trained_and_compared(file: Path, tmp_path: Path) -> None:
    result = ablate(file, "--steps", 2, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert changed(out / "fusion-high-only", model={"fusion": "high-only"})
    assert changed(out / "without-the-constraint", loss={"terms": {"diffusion": {}}})
    assert changed(out / "without-low-level-prompts", data={"levels": ["high"]})
    table = (out / "ablation.md").read_text()
    assert table in result.stdout
    assert table.startswith("| variant | PSNR | Δ | SSIM | Δ |\n")
    for variant in ("bicubic", "full", "fusion: gated", "fusion: serial", "without prompts"):
        assert f"| {variant} | " in table
    content = json.loads((out / "ablation.json").read_text())
    assert content["steps"] == 2
    assert len(content["rows"]) == table.count("\n") - 2
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "Differences from full" in report
    assert report.count('type="range"') == 1, "one held-out image"
    figure = content["rows"][1]["scores"]["psnr"][0]
    assert f"<td>{figure:.2f}</td>" in report or f'<td class="best">{figure:.2f}</td>' in report
    pytest.importorskip("matplotlib")
    with Image.open(out / "ablation.png") as plot:
        assert plot.width > plot.height


def test_seeds_give_a_deviation_and_what_is_done_is_not_done_again(file: Path, tmp_path: Path) -> None:
    command = (file, "--steps", 1, "--over", "constraint", "--seeds", 2)
    first = ablate(*command)
    assert first.exit_code == 0, first.output
    assert " ± " in first.stdout
    checkpoints = sorted((tmp_path / "runs").rglob("state.pt"))
    assert len(checkpoints) == 4
    before = [checkpoint.stat().st_mtime_ns for checkpoint in checkpoints]
    assert ablate(*command).stdout == first.stdout
    assert [checkpoint.stat().st_mtime_ns for checkpoint in checkpoints] == before


def test_what_cannot_be_varied_is_one_sentence(file: Path) -> None:
    for arguments, message in (
        (["--over", "fusions"], "'fusions' cannot be varied. Did you mean 'fusion'?"),
        (["validation.every=0"], "validation.every"),
    ):
        result = ablate(file, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    file.write_text(file.read_text().partition("[validation]")[0])
    result = ablate(file)
    assert result.exit_code == 2
    assert "name them with validation.folders=[...]" in result.stderr
