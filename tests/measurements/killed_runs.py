"""Do a work on many photos while its workers, a node of its cluster and its command are killed at random moments.

    python -m tests.measurements.killed_runs FOLDER --work upscale --runner ray

Photos are made in FOLDER. The command (``xpsr caption``, ``data prepare`` or ``upscale``) works on them with two
workers, on this machine or on a Ray cluster of two nodes, which is started here. SIGKILL hits a worker, a node (its
raylet; another one joins the cluster) or the command itself, which is then started again. At the end the same command
is started once more, and should find nothing to do. Printed are the kills, and a row of a table that compares the
outputs with those of one process that nobody disturbed: the hash of each file, or the rows of the store of prompts.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from PIL import Image

from tests.support.noted_command import NOTES, PROGRAM

IN_AN_INPUT = {"caption": 16, "prepare": 32, "upscale": 1}
"""Photos that a worker has in progress: a batch, a shard, a photo."""
IN_PROGRESS = {"worker": 1, "node": 1, "command": 2}
"""Inputs in progress that a kill costs."""
STORE = "prompts.sqlite"
COMMANDS = {
    "caption": "caption --prompt-provider fixed --prompt-provider-option high=house",
    "prepare": "data prepare --degradation bicubic --degradation-option scale=2 --prompt-provider fixed",
    "upscale": "upscale --model none --upscaler bicubic --scale 2",
}
"""Each work, with cheap parts."""
COLUMNS = ("runner", "work", "kills", "starts", "begun twice (at most)", "files that differ", "left over", "seconds")


def make_photos(folder: Path, count: int, side: int = 32) -> None:
    """Write small photos of distinct content, with coarse and fine detail."""
    folder.mkdir(parents=True, exist_ok=True)
    random_pixels = np.random.default_rng(0)
    for number in range(count):
        coarse = random_pixels.integers(0, 200, (4, 4, 3)).repeat(side // 4, 0).repeat(side // 4, 1)
        pixels = coarse + random_pixels.integers(0, 56, (side, side, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:06}.png", compress_level=1)


@dataclass
class Place:
    """Where a run leaves its outputs, its notes and its temporary files."""

    folder: Path

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def notes(self) -> Path:
        return self.folder / "notes.txt"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def begun(self) -> list[str]:
        """The photos that a worker began, as often as one did."""
        return self.notes.read_text().split() if self.notes.exists() else []

    def temporary_files(self) -> set[str]:
        """What is left in the folder for temporary files."""
        return {str(path.relative_to(self.temporary)) for path in self.temporary.rglob("*")}

    def files(self) -> dict[str, str]:
        """Each file of the outputs and its hash; of a store of prompts, that of its rows in the order of their keys."""
        return {
            path.relative_to(self.outputs).as_posix(): _hash(path)
            for path in sorted(self.outputs.rglob("*"))
            if path.is_file()
        }


def _hash(path: Path) -> str:
    content = repr(rows_of(path)).encode() if path.name == STORE else path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def rows_of(store: Path) -> list[list[Any]]:
    """What a store of prompts holds, in the order of the keys."""
    prompts = "SELECT sha256, level, provider, model, question, text, source FROM prompts ORDER BY 1, 2, 3, 4, 5"
    with closing(sqlite3.connect(store)) as connection:
        return [connection.execute(query).fetchall() for query in (prompts, "SELECT * FROM images ORDER BY path")]


@dataclass
class Command:
    """The command, which may be started several times."""

    work: str
    photos: Path
    place: Place
    options: list[str]
    starts: int = 0

    def start(self) -> subprocess.Popen[str]:
        self.starts += 1
        self.place.temporary.mkdir(parents=True, exist_ok=True)
        output = {"caption": ["--store", str(self.place.outputs / STORE)]}.get(
            self.work, ["-o", str(self.place.outputs)]
        )
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *COMMANDS[self.work].split(), str(self.photos), *output, *self.options],
            env=os.environ | {NOTES: str(self.place.notes), "TMPDIR": str(self.place.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, running: subprocess.Popen[str] | None = None) -> str:
        """Wait for the end. Gives the last line: the summary.

        Raises:
            ClickException: The exit code is not 0.
        """
        running = running or self.start()
        told, _ = running.communicate()
        if running.returncode:
            raise click.ClickException(f"exit code {running.returncode}: {told[-2000:]}")
        return told.strip().splitlines()[-1]


class LocalMachine:
    """Two processes of this machine."""

    kinds = ("worker", "command")
    options = ("--workers", "2")

    def workers(self, running: subprocess.Popen[str]) -> list[psutil.Process]:
        return [each for each in psutil.Process(running.pid).children() if "spawn_main" in " ".join(_words(each))]

    def kill_node(self) -> None:
        raise NotImplementedError


class RayCluster:
    """A cluster of two nodes with a core each."""

    kinds = ("worker", "node", "command")

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._own: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self._cluster = Cluster(initialize_head=True, head_node_args={**self._own, "include_dashboard": False})
        self._node = self._cluster.add_node(**self._own)
        self.options = ("--runner", "ray", "--address", self._cluster.address, "--workers", "2", "--worker-gpus", "0")

    def workers(self, running: subprocess.Popen[str]) -> list[psutil.Process]:
        raylets = [self._raylet(node) for node in (self._cluster.head_node, self._node)]
        return [each for raylet in raylets for each in raylet.children() if _words(each)[:1] == ["ray::Hand.do"]]

    def kill_node(self) -> None:
        self._raylet(self._node).kill()
        self._cluster.remove_node(self._node, allow_graceful=False)
        self._node = self._cluster.add_node(**self._own)

    def close(self) -> None:
        self._cluster.shutdown()

    def _raylet(self, node: Any) -> psutil.Process:
        return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it ended
        return []


@contextmanager
def machine_of(runner: str) -> Iterator[LocalMachine | RayCluster]:
    """Where the workers are."""
    if runner == "local":
        yield LocalMachine()
        return
    cluster = RayCluster()
    with closing(cluster):
        yield cluster


@dataclass
class Attack:
    """Kills while a command works, each when workers have begun so many photos, and up to a tenth of a second later."""

    command: Command
    machine: LocalMachine | RayCluster
    chance: random.Random
    tell: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter)

    def run(self, photos: int, kills: int) -> str:
        """Kill everything so often, start the command again when that was killed, and give its last line."""
        kinds = [kind for kind in self.machine.kinds for _ in range(kills)]
        self.chance.shuffle(kinds)
        moments = sorted(self.chance.uniform(0.02, 0.95) * photos for _ in kinds)
        running = self.command.start()
        for kind, moment in zip(kinds, moments, strict=True):
            while len(set(self.command.place.begun())) < moment and running.poll() is None:
                time.sleep(0.02)
            time.sleep(self.chance.uniform(0, 0.1))
            if running.poll() is not None:
                break
            running = self._kill(kind, running)
        return self.command.finish(running)

    def _kill(self, kind: str, running: subprocess.Popen[str]) -> subprocess.Popen[str]:
        begun = len(set(self.command.place.begun()))
        if kind == "worker":
            while not (workers := self.machine.workers(running)):
                time.sleep(0.01)
            self.chance.choice(workers).send_signal(signal.SIGKILL)
        elif kind == "node":
            self.machine.kill_node()
        else:
            running.kill()
            running.communicate()
            running = self.command.start()
        self.done[kind] += 1
        self.tell(f"killed at {begun} photos: {kind}")
        return running


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--work", type=click.Choice(list(IN_AN_INPUT)), required=True)
@click.option("--runner", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--photos", default=10_000, show_default=True)
@click.option("--kills", default=3, show_default=True, help="Of each kind.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(folder: Path, work: str, runner: str, photos: int, kills: int, seed: int) -> None:
    """Run the measurement in FOLDER. Photos and outputs that were never disturbed are kept for other runs."""
    folder = folder.absolute()
    images = folder / f"photos-{photos}"
    if not images.exists():
        make_photos(images, photos)
    calm = Command(work, images, Place(folder / f"{work}-{photos}-undisturbed"), [])
    if not calm.place.notes.exists():
        click.echo(f"undisturbed: {calm.finish()}")
    place = Place(folder / f"{work}-{photos}-{runner}-{seed}")
    if place.folder.exists():
        raise click.ClickException(f"{place.folder} exists: delete it first.")
    begun = time.monotonic()
    with machine_of(runner) as machine:
        attack = Attack(Command(work, images, place, list(machine.options)), machine, random.Random(seed), click.echo)
        click.echo(f"at last: {attack.run(photos, kills)}")
        seconds, tries, starts = time.monotonic() - begun, place.begun(), attack.command.starts
        click.echo(f"again: {attack.command.finish()}")
    expected, found = calm.place.files(), place.files()
    allowed = IN_AN_INPUT[work] * sum(IN_PROGRESS[kind] * times for kind, times in attack.done.items())
    rest = [*(found.keys() - expected.keys()), *(place.temporary_files() - calm.place.temporary_files())]
    wrong = [name for name in expected if found.get(name) != expected[name]]
    click.echo(" | ".join(COLUMNS))
    kinds = ", ".join(f"{times} {kind}" for kind, times in sorted(attack.done.items()))
    twice = f"{len(tries) - len(set(tries))} ({allowed})"
    row = (runner, work, kinds, starts, twice, f"{len(wrong)} of {len(expected)}", len(rest))
    click.echo(" | ".join(map(str, (*row, f"{seconds:.0f}"))))
    click.echo(f"begun by the last start: {len(place.begun()) - len(tries)}")
    for name in [*wrong[:5], *rest[:5]]:
        click.echo(f"  {name}", err=True)


if __name__ == "__main__":
    main()
