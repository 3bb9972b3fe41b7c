"""The example of docs/guides/several-machines.md for Ray Train, with two processes of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.pages import program
from xpsr_sdk import TrainConfig, prepare_pairs, read_toml, train

CONFIG = """
output = "{output}"
steps = 2
batch_size = 2
device = "cpu"
log_every = 1
trackers = []
model.base = "{model}"
data = {{folders = ["{pairs}"], crop = 32}}
"""
CLUSTER = """
import ray
ray.init(address="local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
"""


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_example_trains_with_two_workers_as_one_process_does(tmp_path: Path) -> None:
    for seed in range(4):
        tiny.photo(64, 64, seed).save(tmp_path / f"{seed}.png")
    prepare_pairs(tmp_path, tmp_path / "pairs", degradation="bicubic")
    tiny.write_whole_model(tmp_path / "model")
    for name in ("one", "train"):
        text = CONFIG.format(output=tmp_path / name, pairs=tmp_path / "pairs", model=tmp_path / "model")
        (tmp_path / f"{name}.toml").write_text(text)
    changes = {"num_workers=16, use_gpu=True": "num_workers=2"}
    text = program("docs/guides/several-machines.md", "train_on_ray.py", changes)
    (tmp_path / "train_on_ray.py").write_text(CLUSTER + text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_memory_monitor_refresh_ms": "0"}
    subprocess.run([sys.executable, "train_on_ray.py"], cwd=tmp_path, env=environment, check=True)
    train(read_toml(TrainConfig, tmp_path / "one.toml"))
    assert losses(tmp_path / "train") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
