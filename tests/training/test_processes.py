"""Several processes train as one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tiny
from tests.support.pages import program
from tests.support.training_runs import config, log_of, weights
from xpsr_sdk import Registry, TrainConfig, read_toml
from xpsr_sdk.preparation.prepare import prepare_shards
from xpsr_sdk.training.config import DataSection
from xpsr_sdk.training.data import TrainingData, batches, positions_of_process
from xpsr_sdk.training.loop import train

SRUN = """#!/bin/bash
# On each of the two machines that SLURM_NNODES counts.
for node in 0 1; do SLURM_NODEID=$node SLURM_PROCID=$node SLURM_LOCALID=0 SLURM_NTASKS=2 "$@" & started+=($!); done
for process in "${started[@]}"; do wait "$process" || failed=1; done
exit ${failed:-0}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Slurm runs on Linux")
def test_two_processes_go_on_with_what_one_began_as_one_would(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    """Each stands for a machine, as Slurm and torchrun start it, with DDP and the frozen layers sharded (FSDP)."""
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
    train(read_toml(TrainConfig, file), should_stop=lambda: True)
    assert len(log_of(tmp_path / "two")) == 1
    told = run_on_slurm(tmp_path, file)
    assert told.returncode == 0, told
    assert told.stdout.count("The last checkpoint is") == 1
    for line, other in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-3)
    figures = [(tmp_path / name / "validation.jsonl").read_text().splitlines() for name in ("one", "two")]
    for line, other in zip(*figures, strict=True):
        assert json.loads(other) == pytest.approx(json.loads(line), rel=1e-3)
    found = weights(tmp_path / "two" / "checkpoint-3")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-4)


def run_on_slurm(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    """Run the batch script of the docs, in place of Slurm, on what it takes for two machines."""
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/bash\necho 127.0.0.1\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changes = {"--nproc-per-node 8": "--nproc-per-node 1", ":29500": f":{port}", "train.toml": str(config)}
    script = folder / "train.sbatch"
    script.write_text(program("docs/guides/several-machines.md", script.name, changes))
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "machine[1-2]"}
    environment = {**os.environ, **slurm, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", script], capture_output=True, text=True, env=environment, timeout=600, check=False)


def test_a_worker_draws_the_same(pairs: Path) -> None:
    section = DataSection(folders=(pairs,), crop=32, workers=1)
    data = TrainingData(section, 3, Registry([]))
    (fetched,) = batches(data, [range(5, 8)])
    expected = data.batch(range(5, 8))
    assert torch.equal(fetched.resized, expected.resized)
    assert torch.equal(fetched.hr, expected.hr)
    assert (fetched.high, fetched.low, fetched.positions) == (expected.high, expected.low, expected.positions)


@given(st.data())
def test_processes_share_the_positions_and_a_resume_may_change_their_number(draw: st.DataObject) -> None:
    parts_a_step = draw.draw(st.integers(1, 3))
    processes = draw.draw(st.integers(1, 6))
    others = draw.draw(st.integers(1, 6))
    batch_size = parts_a_step * processes * others * draw.draw(st.integers(1, 3))
    steps = draw.draw(st.integers(1, 6))
    stopped = draw.draw(st.integers(0, steps))

    def read(count: int, first: int, last: int) -> list[list[int]]:
        """The positions of each step, as all processes together read them."""
        parts = range(first * parts_a_step, last * parts_a_step)
        by_process = [
            list(positions_of_process(process, count, batch_size, parts, parts_a_step)) for process in range(count)
        ]
        in_parts = [[position for mine in of_part for position in mine] for of_part in zip(*by_process, strict=True)]
        return [[*chain(*in_parts[i : i + parts_a_step])] for i in range(0, len(in_parts), parts_a_step)]

    whole = [list(range(step * batch_size, (step + 1) * batch_size)) for step in range(steps)]
    assert read(processes, 0, steps) == whole
    assert read(processes, 0, stopped) + read(others, stopped, steps) == whole


def test_shards_are_read_without_overlap_by_any_number_of_processes_and_workers(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(8):
        tiny.photo(64, 64, seed).save(tmp_path / "photos" / f"{seed}.png")
    prepare_shards(tmp_path / "photos", tmp_path / "shards", photos_a_shard=3, degradation="bicubic")
    found = {}
    for processes, workers in ((1, 0), (2, 0), (4, 0), (2, 1)):
        images: dict[int, torch.Tensor] = {}
        for process in range(processes):
            section = DataSection(folders=(tmp_path / "shards",), crop=32, workers=workers, hr_as_input=0)
            data = TrainingData(section, 3, Registry([]))
            positions = list(positions_of_process(process, processes, 8, range(1), 1))
            for batch in batches(data, positions):
                images |= zip(batch.positions, batch.hr, strict=True)
        found[processes, workers] = torch.stack([images[position] for position in range(8)])
    first = found[1, 0]
    assert len({image.numpy().tobytes() for image in first}) == 8
    assert all(torch.equal(images, first) for images in found.values())
