"""Checkpoints: whatever moment a run is killed at, it goes on to the same weights; damage is noticed."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.killed import train_until
from tests.support.training_runs import config, log_of, weights
from xpsr_sdk import TrainingError
from xpsr_sdk.files.locks import folder_lock
from xpsr_sdk.training.checkpoints import Checkpoints
from xpsr_sdk.training.loop import TrainingRun, train

CHECKPOINTS = "xpsr_sdk.training.checkpoints:"
MOMENTS = {
    "in the middle of a step": ("xpsr_sdk.training.loop:TrainingRun.draw", 7),
    "before the first checkpoint": ("xpsr_sdk.training.loop:TrainingRun.draw", 2),
    "while the networks are written": ("xpsr_sdk.training.loop:write_model", 4),
    "while the state is written": (f"{CHECKPOINTS}torch.save", 2),
    "before the checkpoint is verified": (f"{CHECKPOINTS}_write_manifest", 2),
    "before it gets its name": ("os:replace", 3),
    "while an old one is removed": (f"{CHECKPOINTS}shutil.rmtree", 3),
}
OPTIONS: dict[str, Any] = {
    "steps": 6, "checkpoint_every": 2, "keep_checkpoints": 1,
    "gradient_accumulation": 2, "optimizer__schedule": "cosine",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pairs: Path, tiny_model: Path) -> Path:
    """The output of a run that was not interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train(config(output, pairs, tiny_model, **OPTIONS))
    return output


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.killed"])
    return context


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal that kills")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, pairs: Path, tiny_model: Path, whole: Path, processes: Any, moment: str
) -> None:
    run = config(tmp_path / "run", pairs, tiny_model, **OPTIONS)
    process = processes.Process(target=train_until, args=(run, *MOMENTS[moment]))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    last = train(run)
    expected, found = weights(whole / "checkpoint-6"), weights(last)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert (last / "state.pt").read_bytes() == (whole / "checkpoint-6" / "state.pt").read_bytes()
    assert [line["loss"] for line in log_of(tmp_path / "run")] == [line["loss"] for line in log_of(whole)]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoint-6", "config.json", "log.jsonl"]


@pytest.mark.parametrize("file", ["state.pt", "controlnet/diffusion_pytorch_model.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, pairs: Path, tiny_model: Path, whole: Path, file: str
) -> None:
    run = config(tmp_path / "run", pairs, tiny_model, **OPTIONS | {"keep_checkpoints": 5})
    train(run)
    damaged = tmp_path / "run" / "checkpoint-6" / file
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="checkpoint-6 is damaged, and the run does not continue from it"):
        last = train(run)
    expected, found = weights(whole / "checkpoint-6"), weights(last)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.filterwarnings("ignore:.*is damaged:UserWarning")
def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(
    tmp_path: Path, pairs: Path, tiny_model: Path
) -> None:
    run = config(tmp_path / "run", pairs, tiny_model, steps=1)
    (train(run) / "state.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"Every checkpoint in .* is damaged"):
        train(run)


def test_a_manifest_names_every_file(whole: Path) -> None:
    manifest = json.loads((whole / "checkpoint-6" / "manifest.json").read_text())
    files = {str(p.relative_to(whole / "checkpoint-6")) for p in (whole / "checkpoint-6").rglob("*") if p.is_file()}
    assert manifest.keys() == files - {"manifest.json"}


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path: Path) -> None:
    for step in range(1, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "state.pt").touch()
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.remove_old(best=2)
    assert checkpoints.steps() == [2, 4, 5]
    checkpoints.remove_old(best=5)
    assert checkpoints.steps() == [4, 5]


def test_a_batch_that_broke_a_run_is_kept(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    run = TrainingRun(config(tmp_path, pairs, tiny_model))
    run.recent_losses.extend([0.1, 0.2] * 50)
    run.config = run.config.model_copy(
        update={"optimizer": run.config.optimizer.model_copy(update={"divergence": 1e-9})}
    )
    with pytest.raises(TrainingError, match=r"The loss diverges at step 0: .* kept in .*failed-step-0"):
        run.one_step()
    kept = tmp_path / "failed-step-0"
    assert sorted(p.name for p in kept.iterdir()) == ["batch.json", "inputs.safetensors"]
    assert json.loads((kept / "batch.json").read_text())["positions"] == [0, 1]


def test_an_output_that_was_copied_goes_on_alike(tmp_path: Path, pairs: Path, tiny_model: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    again = train(config(tmp_path / "copy", pairs, tiny_model, **OPTIONS | {"steps": 6}))
    assert weights(again).keys() == weights(whole / "checkpoint-6").keys()


def test_without_averages_checkpoints_hold_the_weights_themselves(
    tmp_path: Path, pairs: Path, tiny_model: Path
) -> None:
    options: dict[str, Any] = {"steps": 1, "optimizer__ema_decay": 0.0}
    run = TrainingRun(config(tmp_path, pairs, tiny_model, **options))
    run.one_step()
    run.save()
    found = weights(tmp_path / "checkpoint-1")
    name = "controlnet.conv_in.weight"
    assert torch.equal(found[name], run.trained[name])
    TrainingRun(config(tmp_path, pairs, tiny_model, **options)).resume()
    with pytest.raises(TrainingError, match=r"holds no EMA weights: set optimizer\.ema_decay to 0"):
        TrainingRun(config(tmp_path, pairs, tiny_model, steps=1)).resume()


def test_what_is_no_checkpoint_of_the_run_is_left_alone(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "checkpoint-6", tmp_path / "checkpoint-6")
    for name in ("checkpoint-6-copy", "checkpoint-best", ".checkpoint-notes"):
        shutil.copytree(whole / "checkpoint-6", tmp_path / name)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.remove_partial()
    checkpoints.remove_old(None)
    assert checkpoints.steps() == [6]
    assert len(list(tmp_path.iterdir())) == 4
    manifest = tmp_path / "checkpoint-6" / "manifest.json"
    named = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(named | {"../checkpoint-best/state.pt": named["state.pt"]}))
    with pytest.warns(UserWarning, match="names a file outside"), pytest.raises(TrainingError):
        checkpoints.newest()
    for wrong in ({}, {"size": -1, "sha256": ""}, {"size": 1, "sha256": None}, []):
        manifest.write_text(json.dumps(named | {"state.pt": wrong}))
        with pytest.warns(UserWarning, match=r"manifest\.json is damaged or not what"), pytest.raises(TrainingError):
            checkpoints.newest()


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks on folders")
def test_two_trainings_do_not_share_an_output(pairs: Path, tiny_model: Path, tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path / "out", TrainingError),
        pytest.raises(TrainingError, match="Another training is writing to"),
    ):
        train(config(tmp_path / "out", pairs, tiny_model, steps=1))
