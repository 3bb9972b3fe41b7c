"""Several processes train as one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.training_runs import config, log_of, weights
from xpsr_sdk import Registry
from xpsr_sdk.training.config import DataSection
from xpsr_sdk.training.data import TrainingData, batches
from xpsr_sdk.training.loop import train


def test_two_processes_train_as_one(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    """One with DDP and the frozen layers sharded (FSDP), the other with neither."""
    validation = {"folders": [pairs], "every": 3, "images": 1, "crop": 64, "settings": {"num_inference_steps": 1}}
    one = config(tmp_path / "one", pairs, tiny_model, batch_size=4, gradient_accumulation=2, validation=validation)
    expected = weights(train(one))
    file = tmp_path / "two.toml"
    file.write_text(
        f'output = "{tmp_path / "two"}"\nsteps = 3\nbatch_size = 4\ngradient_accumulation = 2\ndevice = "cpu"\n'
        f'log_every = 1\ntrackers = []\n[model]\nbase = "{tiny_model}"\nbackbone = "residual"\n'
        f"shard_frozen = true\n"
        f'[data]\nfolders = ["{pairs}"]\ncrop = 32\nhr_as_input = 0.2\n'
        "[optimizer]\nlearning_rate = 1e-3\nema_decay = 0.5\n"
        f'[validation]\nfolders = ["{pairs}"]\nevery = 3\nimages = 1\ncrop = 64\n'
        "settings = {num_inference_steps = 1}\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    command = [*launch, "-m", "xpsr_sdk", "train", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The last checkpoint is") == 1
    for line, other in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)
    figures = [(tmp_path / name / "validation.jsonl").read_text().splitlines() for name in ("one", "two")]
    for line, other in zip(*figures, strict=True):
        assert json.loads(other) == pytest.approx(json.loads(line), rel=1e-3)
    found = weights(tmp_path / "two" / "checkpoint-3")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-4)


def test_a_worker_draws_the_same(pairs: Path) -> None:
    section = DataSection(folders=(pairs,), crop=32, workers=1)
    data = TrainingData(section, 3, Registry([]))
    (fetched,) = batches(data, [range(5, 8)])
    expected = data.batch(range(5, 8))
    assert torch.equal(fetched.resized, expected.resized)
    assert torch.equal(fetched.hr, expected.hr)
    assert (fetched.high, fetched.low, fetched.positions) == (expected.high, expected.low, expected.positions)
