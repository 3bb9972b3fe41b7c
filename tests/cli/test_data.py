"""``xpsr data prepare``: from photos to training pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support import tiny
from xpsr_sdk import Prompts
from xpsr_sdk.builtin.measured import MeasuredPrompts
from xpsr_sdk.cli.main import xpsr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    tiny.photo(64, 64).save(folder / "one.png")
    return folder


def prepare(*arguments: object, form: str = "pairs") -> Result:
    return CliRunner().invoke(xpsr, ["data", "prepare", "--form", form, *map(str, arguments)])


def test_photos_become_pairs(photos: Path, tmp_path: Path) -> None:
    (photos / "text.png").write_text("no image")
    result = prepare(photos, "-o", tmp_path / "pairs", "--variants", 2, "--degradation", "bicubic")
    assert result.exit_code == 1, result.stderr
    assert result.stdout == f"2 samples are in {tmp_path / 'pairs'}; left out: 1 damaged\n"
    assert f"Left out: {photos}/text.png is not an image" in result.stderr
    assert len(list((tmp_path / "pairs" / "HR").iterdir())) == 2


def test_photos_can_be_sharpened_first(photos: Path, tmp_path: Path) -> None:
    for name, options in (("plain", []), ("sharp", ["--sharpen"])):
        assert prepare(photos, "-o", tmp_path / name, "--degradation", "bicubic", *options).exit_code == 0
    for part in ("HR", "LR"):
        plain, sharp = ((tmp_path / name / part / "one__v0.png").read_bytes() for name in ("plain", "sharp"))
        assert plain != sharp


def test_missing_prompts_are_told(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object, items: object, levels: object) -> list[Prompts]:
        return [Prompts(errors={"low": "No light."})]

    monkeypatch.setattr(MeasuredPrompts, "describe", failing)
    result = prepare(photos, "-o", tmp_path / "pairs", "--degradation", "bicubic")
    assert result.exit_code == 0
    assert f"Prompts are missing: {photos}/one.png: No light." in result.stderr


def test_no_pairs_at_all_is_a_failure(photos: Path, tmp_path: Path) -> None:
    tiny.photo(20, 20).save(photos / "one.png")
    result = prepare(photos, "-o", tmp_path / "pairs")
    assert result.exit_code == 1
    assert f"Left out: {photos}/one.png: 20x20 is too small" in result.stderr


def test_options_of_a_part_need_no_name_where_there_is_a_default(photos: Path, tmp_path: Path) -> None:
    result = prepare(photos, "-o", tmp_path / "pairs", "--degradation-option", "nothing=1")
    assert result.exit_code == 2
    assert "The degradation model 'realesrgan' of xpsr-sdk" in result.stderr
    result = prepare(photos, "-o", tmp_path / "none", "--degradation", "none", form="shards")
    assert result.exit_code == 0, result.stderr


def test_help_is_that_of_the_recipe() -> None:
    told = " ".join(CliRunner().invoke(xpsr, ["data", "prepare", "--help"]).stdout.split())
    assert "Number of degraded versions of each photo or crop. [default: 1] [x>=1]" in told
    assert "Prompt provider, which describes the photos and their LR images. [default: measured]" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--degradation", "bicubik"], "Did you mean 'bicubic'?"),
        (["--prompt-provider", "fixd"], "Did you mean 'fixed'?"),
        (["--variants", "0"], "0 is not in the range x>=1"),
        (["--workers", "0"], "0 is not in the range 1<=x<=10000"),
    ],
)
def test_wrong_use_is_one_sentence(photos: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = prepare(photos, "-o", tmp_path / "pairs", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "pairs").exists()


def test_photos_that_are_nowhere(tmp_path: Path) -> None:
    result = prepare(tmp_path / "nowhere", "-o", tmp_path / "pairs")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    result = prepare(empty, "-o", tmp_path / "pairs")
    assert result.exit_code == 1
    assert "holds no images" in result.stderr
