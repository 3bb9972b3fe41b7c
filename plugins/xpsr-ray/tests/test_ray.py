"""The runner on real clusters of this machine: one of two workers, and one of two nodes."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import ray
from click.testing import CliRunner
from ray.cluster_utils import Cluster
from xpsr_ray import RayRunner

from tests.support import tiny
from tests.support.doubling import Doubling
from xpsr_sdk import ConfigError, Done, Registry, RunnerConfig, WorkerLost, caption_folder, prepare_shards

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own, of sockets and processes that it leaves to the system
SMALL: dict[str, Any] = {"object_store_memory": 100 * 2**20, "include_dashboard": False}

KILLED = """
import sys
from pathlib import Path
import ray
from xpsr_ray import RayRunner
from xpsr_sdk import Registry, RunnerConfig, caption_folder

ray.init(address="local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
caption_folder(
    Path(sys.argv[1]), prompt_provider={"name": "fixed", "high": "a house"}, batch_size=1, registry=Registry([]),
    runner=RayRunner(RunnerConfig(runner="ray", workers=2, worker_gpus=0)),
    progress=lambda done, total: (print("done", done, flush=True), sys.stdin.readline() if done == 6 else None),
)
"""


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A cluster of one node with two cores. It says that it has two GPUs, which nobody uses."""
    ray.init(address="local", num_cpus=2, num_gpus=2, log_to_driver=False, **SMALL)
    yield
    ray.shutdown()


def runner(**options: Any) -> RayRunner:
    return RayRunner(RunnerConfig(runner="ray", workers=2, worker_gpus=0, **options))


def run(work: Doubling, numbers: Iterable[int], **options: Any) -> dict[int, Done[int, Any]]:
    found = list(runner(**options).run(work, numbers))
    assert sorted(done.given for done in found) == sorted(numbers)
    return {done.given: done for done in found}


def prompts(store: Path) -> list[Any]:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT sha256, level, provider, model, text FROM prompts ORDER BY 1, 2").fetchall()


@pytest.mark.usefixtures("two_workers")
def test_each_input_once_and_what_fails_is_a_value(tmp_path: Path) -> None:
    work = Doubling(tmp_path, broken_at=3)
    with pytest.warns(UserWarning, match="eight is large"):
        done = run(work, [1, 2, 3, 4, 7, 8, 9], worker_timeout=3)
    assert {number: done[number].result()[0] for number in (1, 2, 4, 8)} == {1: 2, 2: 4, 4: 8, 8: 16}
    assert isinstance(done[3].error, WorkerLost)
    assert "A worker of the cluster is lost" in done[3].reason
    assert done[7].reason == "ValueError: seven is no number"
    assert "more than 3 seconds" in done[9].reason
    assert all(len(set(work.tries(number))) == 2 for number in (3, 7, 9))
    assert all(len(work.tries(number)) == 1 for number in (1, 2, 4, 8))


@pytest.mark.usefixtures("two_workers")
def test_a_worker_for_each_gpu_of_the_cluster(tmp_path: Path) -> None:
    work = Doubling(tmp_path, begins_with=2)
    done = list(RayRunner(RunnerConfig(runner="ray", workers="gpus")).run(work, [1, 2]))
    assert sorted(each.result()[0] for each in done) == [2, 4]
    assert work.warmed() == 2
    with pytest.raises(ConfigError, match="2 workers need 4 GPUs, and the cluster has 2"):
        list(RayRunner(RunnerConfig(runner="ray", workers=2, worker_gpus=2)).run(work, [1]))


@pytest.mark.usefixtures("two_workers")
def test_each_worker_is_warmed_once_and_that_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = Doubling(tmp_path, begins_with=2)
    with caplog.at_level("INFO", "xpsr_sdk.runners"):
        run(work, range(10, 40))
    assert work.warmed() == 2
    assert sorted(message.partition(" after")[0] for message in caplog.messages if message.startswith("Worker")) == [
        "Worker 1 is ready",
        "Worker 2 is ready",
    ]


@pytest.mark.usefixtures("two_workers")
def test_what_cannot_begin_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 workers need 3 CPUs, and the cluster has 2"):
        list(RayRunner(RunnerConfig(runner="ray", workers=3, worker_gpus=0)).run(Doubling(tmp_path), [1]))
    with pytest.raises(ConfigError, match="There is no such model"):
        list(runner().run(Doubling(tmp_path, broken_at=0), [1, 2]))


@pytest.mark.usefixtures("two_workers")
def test_prompts_and_shards_are_those_of_one_process(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(10):
        tiny.photo(64, 64, seed).save(photos / f"{seed}.png")
    (photos / "text.png").write_text("no image")
    options: dict[str, Any] = {"prompt_provider": {"name": "fixed", "high": "a house"}, "registry": Registry([])}
    reports, shards = [], []
    for name, where in (("here", None), ("ray", runner())):
        output = tmp_path / name
        store = tmp_path / f"{name}.sqlite"
        reports.append(caption_folder(photos, store=store, batch_size=2, runner=where, **options))
        made = prepare_shards(photos, output, photos_a_shard=3, degradation="bicubic", runner=where, **options)
        shards.append((made, {file.name: file.read_bytes() for file in output.iterdir()}))
    assert reports[0] == reports[1]
    assert reports[0].described == 10
    assert prompts(tmp_path / "here.sqlite") == prompts(tmp_path / "ray.sqlite")
    assert shards[0] == shards[1]
    again = caption_folder(photos, store=tmp_path / "ray.sqlite", runner=runner(), **options)
    assert (again.described, again.known) == (0, 10)


@pytest.mark.usefixtures("two_workers")
def test_commands_choose_it_by_name_and_do_the_same(tmp_path: Path) -> None:
    [command] = entry_points(group="console_scripts", name="xpsr")
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(3):
        tiny.photo(40, 40, seed).save(photos / f"{seed}.png")
    (photos / "text.png").write_text("no image")
    told: dict[str, list[Any]] = {}
    on_ray = ["--runner", "ray", "--worker-gpus", "0", "--workers"]
    for name, wheres in (("here", ([], [])), ("ray", ([*on_ray, "2"], [*on_ray, "1"]))):
        out = tmp_path / name
        restore = ["upscale", str(photos), "-o", str(out), "--model", "none", "--upscaler", "bicubic", "--scale", "1"]
        for words, where in zip((restore, ["evaluate", str(out), str(out)]), wheres, strict=True):
            result = CliRunner().invoke(command.load(), [*words, *where])
            ready = [line for line in result.stderr.splitlines() if re.match(r"Worker \d is ready after", line)]
            assert bool(ready) == bool(where)
            lines = sorted(line for line in result.stderr.splitlines() if " done, " not in line and line not in ready)
            summary = re.sub(r"in [\d.]+ s \([\d.]+ s per", "", result.stdout)
            told.setdefault(name, []).append((words[0], result.exit_code, summary, lines))
        told[name].append({file.name: file.read_bytes() for file in out.iterdir()})
    assert str(told["here"]).replace(str(tmp_path / "here"), "") == str(told["ray"]).replace(str(tmp_path / "ray"), "")
    assert [code for _, code, *_ in told["ray"][:2]] == [1, 0]
    assert sorted(told["ray"][2]) == ["0.png", "1.png", "2.png"]


def test_a_command_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    ray.shutdown()
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(30):
        tiny.photo(32, 32, seed).save(photos / f"{seed:02}.png")
    program = tmp_path / "run.py"
    program.write_text(KILLED)
    store = photos / "prompts.sqlite"
    with subprocess.Popen(
        [sys.executable, str(program), str(photos)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout
        while not (line := run.stdout.readline()).startswith("done") or int(line.split()[1]) < 6:
            assert line, "it ended"
        run.kill()
    kept = len(prompts(store)) // 2
    assert 6 <= kept < 30
    options: dict[str, Any] = {"prompt_provider": {"name": "fixed", "high": "a house"}, "registry": Registry([])}
    report = caption_folder(photos, **options)
    assert (report.known, report.described) == (kept, 30 - kept)
    caption_folder(photos, store=tmp_path / "other.sqlite", **options)
    assert prompts(store) == prompts(tmp_path / "other.sqlite")


def test_a_node_that_is_killed_costs_no_input(tmp_path: Path) -> None:
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
    node = cluster.add_node(num_cpus=1, object_store_memory=SMALL["object_store_memory"])
    try:
        cluster.connect()
        work = Doubling(tmp_path, pause=0.1, begins_with=2)
        found: list[Done[int, Any]] = []
        for done in runner().run(work, range(10, 40)):
            found.append(done)
            if len(found) == 6:
                cluster.remove_node(node, allow_graceful=False)
        assert work.warmed() == 2
        assert sorted(done.result()[0] for done in found) == [2 * number for number in range(10, 40)]
        assert sum(len(work.tries(number)) > 1 for number in range(10, 40)) <= 1  # the one that was in flight
    finally:
        ray.shutdown()
        cluster.shutdown()
