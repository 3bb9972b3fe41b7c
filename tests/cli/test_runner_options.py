"""``--workers`` and ``--runner``: the same results, log and exit code, wherever the work is done."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner

from tests.support import tiny
from tests.support.upscale_command import Run, files, refused
from xpsr_sdk.cli.main import xpsr

MEASURED = ("time", "seconds", "peak_memory")
"""What a log says that differs from run to run."""


def test_photos_are_restored_alike_in_worker_processes(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "text.png").write_text("no image")
    told = {}
    for workers in (1, 2):
        log, out = tmp_path / f"{workers}.jsonl", tmp_path / f"out-{workers}"
        result = run(photos, "-o", out, "--seed", 3, "--log", log, "--workers", workers)
        records = [json.loads(line) for line in log.read_text().splitlines()]
        for record in records:
            record["result"] = str(Path(record["result"]).relative_to(out))
        lines = sorted(
            str({k: v for k, v in r.items() if k not in ("time", "seconds", "peak_memory")}) for r in records
        )
        summary = re.sub(r"in [\d.]+ s \([\d.]+ s per|out-\d", "", result.stdout)
        told[workers] = result.exit_code, result.stderr.count("Failed: "), summary, lines
        assert files(out) == ["one.png", "trip/two.jpg"]
    assert told[1] == told[2]
    assert told[1][0] == 1
    for name in files(tmp_path / "out-1"):
        assert (tmp_path / "out-1" / name).read_bytes() == (tmp_path / "out-2" / name).read_bytes()


def test_photos_are_measured_alike_in_worker_processes(tmp_path: Path) -> None:
    for seed in range(12):
        for folder, shift in (("hr", 0), ("pred", 40)):
            (tmp_path / folder).mkdir(exist_ok=True)
            tiny.photo(30, 30, seed + shift).save(tmp_path / folder / f"{seed:02}.png")
    (tmp_path / "pred" / "03.png").write_text("no image")
    folders = [str(tmp_path / "pred"), str(tmp_path / "hr")]
    found = []
    for workers in ("1", "2"):
        scores = tmp_path / f"{workers}.jsonl"
        command = ["evaluate", *folders, "--metrics", "psnr,ssim", "--workers", workers, "--scores", str(scores)]
        result = CliRunner().invoke(xpsr, command)
        told = [line for line in result.stderr.splitlines() if not re.search(" done, | is ready after ", line)]
        assert re.search(r"%, \d+ of 12 done, [\d.]+ photos/s, ", result.stderr)
        found.append((result.exit_code, result.stdout, told, sorted(scores.read_text().splitlines())))
    assert found[0] == found[1]
    assert found[0][0] == 1
    assert any("03.png is not an image" in line for line in found[0][2])


def test_wrong_choices_are_one_sentence(run: Run, photos: Path, tmp_path: Path) -> None:
    refused(run(photos, "-o", tmp_path, "--address", "auto"), "The runner 'local' has no address")
    refused(run(photos, "-o", tmp_path, "--runner", "rai"), "No installed distribution offers the runner 'rai'")
    refused(run(photos, "-o", tmp_path, "--workers", "many"), "'many' is not valid: write a number, or gpus.")
    refused(run(photos, "-o", tmp_path, "--workers", 0), "0 is not in the range 1<=x<=10000")
    refused(run("-", "-o", "-", "--workers", 2), "Standard input and output belong to this process")
