"""``xpsr bench``: the table, the files, and wrong use."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from xpsr_sdk.cli.main import xpsr


def run(*arguments: object) -> Result:
    return CliRunner().invoke(xpsr, ["bench", *map(str, arguments)])


def test_the_figures_come_as_a_table_as_json_and_as_a_picture(tiny_model: Path, tmp_path: Path) -> None:
    chosen = ("--only", "baseline", "--only", "exact", "--size", 64, "--size", 96, "--dtype", "float32")
    files = ("--json", tmp_path / "bench.json", "--plot", tmp_path / "bench.png")
    result = run("--model", tiny_model, "--device", "cpu", "--rounds", 1, "--steps", 2, *chosen, *files)
    assert result.exit_code == 0, result.stderr
    assert "times as fast" in result.stdout
    record = json.loads((tmp_path / "bench.json").read_text())
    measured = [(each["variant"], each["size"]) for each in record["measured"]]
    assert measured == [("baseline", 64), ("exact", 64), ("baseline", 96), ("exact", 96)]
    assert record["machine"]["threads"] > 0
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_variant_is_refused_before_anything_is_built() -> None:
    result = run("--only", "fst")
    assert result.exit_code == 2
    assert "There is no variant 'fst'. Did you mean 'fast'?" in result.stderr
