"""``xpsr_sdk.cli.upscale``: which photos are restored, and where the results go."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import tiny
from tests.support.upscale_command import Run, files, refused
from xpsr_sdk.builtin.samplers import DiffusersSampler
from xpsr_sdk.data.images import read_image


def test_a_file_to_a_file(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos / "one.png", "-o", tmp_path / "new" / "big.webp")
    assert result.exit_code == 0, result.stderr
    assert read_image(tmp_path / "new" / "big.webp").image.size == (80, 64)
    assert files(tmp_path / "new") == ["big.webp"]
    assert result.stdout.startswith("1 of 1 restored in ")
    assert result.stdout.endswith(f"s per megapixel): {tmp_path / 'new' / 'big.webp'}\n")


def test_a_file_to_a_folder(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run(photos / "trip" / "two.jpg", "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == ["two.jpg"]


def test_a_folder_keeps_its_tree(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos, "-o", tmp_path / "out", "--scale", 2)
    assert result.exit_code == 0
    assert files(tmp_path / "out") == ["one.png", "trip/two.jpg"]
    assert read_image(tmp_path / "out" / "trip" / "two.jpg").image.size == (34, 48)
    assert "2 of 2 restored" in result.stdout


def test_files_and_folders_together(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run(photos / "one.png", photos / "trip", "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == ["one.png", "two.jpg"]


def test_results_in_the_folder_of_the_photos_are_not_restored_again(run: Run, photos: Path) -> None:
    for _ in range(2):
        result = run(photos, "-o", photos / "restored", "--scale", 2, "--overwrite")
        assert "2 of 2 restored" in result.stdout
    results = ["restored/one.png", "restored/trip/two.jpg"]
    assert files(photos) == ["one.png", *results, "trip/two.jpg"]


def test_a_type_that_can_only_be_read_becomes_png(run: Run, tmp_path: Path) -> None:
    tiny.photo(20, 16).save(tmp_path / "photo.gif")
    assert run(tmp_path / "photo.gif", "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == ["photo.png"]


def test_what_exists_is_skipped_unless_told_otherwise(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "trip").mkdir(parents=True)
    (out / "one.png").write_bytes(b"older")
    result = run(photos, "-o", out)
    assert result.exit_code == 0
    assert "1 of 2 restored" in result.stdout
    assert "1 skipped, since they exist (--overwrite restores them again)" in result.stdout
    assert (out / "one.png").read_bytes() == b"older"
    assert "0 of 2 restored, 2 skipped" in run(photos, "-o", out).stdout
    assert "2 of 2 restored" in run(photos, "-o", out, "--overwrite").stdout
    assert read_image(out / "one.png").image.size == (80, 64)


def test_a_log_has_a_line_for_each_photo(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "text.png").write_text("no image")
    log = tmp_path / "logs" / "log.jsonl"
    for _ in range(2):
        assert run(photos, "-o", tmp_path / "out", "--log", log, "--seed", 3).exit_code == 1
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines[:3]] == ["restored", "failed", "restored"]
    assert sorted(line["status"] for line in lines[3:]) == ["failed", "skipped", "skipped"]
    assert lines[0].items() >= {"photo": str(photos / "one.png"), "width": 80, "height": 64, "seed": 3}.items()
    assert 0 < lines[0]["peak_memory"] <= lines[2]["peak_memory"] < 100, "GiB"
    assert lines[1]["error"] == f"{photos}/text.png is not an image, or of a type that is not supported."


def test_one_type_for_all_results(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run(photos, "-o", tmp_path / "out", "--format", "webp").exit_code == 0
    assert files(tmp_path / "out") == ["one.webp", "trip/two.webp"]
    refused(run(photos / "one.png", "-o", tmp_path / "a.png", "--format", "webp"), "leave out --format")


def test_results_that_would_share_a_name_tell_their_types(run: Run, photos: Path, tmp_path: Path) -> None:
    tiny.photo(20, 16).save(photos / "one.gif")
    tiny.photo(20, 16).save(photos / "two.bmp")
    assert run(photos, "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == ["one.gif.png", "one.png", "trip/two.jpg", "two.png"]


def test_the_limit_of_megapixels_can_be_raised(run: Run, photos: Path, tmp_path: Path) -> None:
    result = run(photos / "one.png", "-o", tmp_path / "out", "--max-megapixels", 0.0001)
    assert "is refused as too large: 20x16 is 0.0 megapixels, and the limit is 0.0001" in result.stderr


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_after_the_photo_and_twice_at_once(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    sample = DiffusersSampler.sample

    def interrupted(self: DiffusersSampler, denoiser: Any, latents: torch.Tensor, **options: Any) -> torch.Tensor:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return sample(self, denoiser, latents, **options)

    monkeypatch.setattr(DiffusersSampler, "sample", interrupted)
    before = signal.getsignal(signal.SIGINT)
    result = run(photos, "-o", tmp_path / "out")
    assert signal.getsignal(signal.SIGINT) is before
    assert result.exit_code == 130
    assert "Stopping after this photo; Ctrl-C again stops at once." in result.stderr
    if times == 1:
        assert files(tmp_path / "out") == ["one.png"]
        assert "1 of 2 restored" in result.stdout
        assert "1 left" in result.stdout
    else:
        assert "Interrupted." in result.stderr
        assert not (tmp_path / "out").exists()


def test_sigterm_ends_at_once_and_in_order(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiffusersSampler, "sample", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    result = run(photos, "-o", tmp_path / "out")
    assert signal.getsignal(signal.SIGTERM) is before
    assert result.exit_code == 143  # an exit, at which temporary files go
    assert not (tmp_path / "out").exists()


def test_names_may_be_as_long_as_can_be(run: Run, photos: Path, tmp_path: Path) -> None:
    name = "x" * 251 + ".png"
    (photos / "one.png").rename(photos / name)
    assert run(photos / name, "-o", tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out") == [name]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_utf8(run: Run, photos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"h\xe4us.png")
    (photos / "one.png").rename(photos / name)
    result = run(photos / name, "-o", tmp_path / "out", "--log", tmp_path / "log.jsonl")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out" / name).is_file()
    assert json.loads((tmp_path / "log.jsonl").read_text())["photo"] == str(photos / name)
