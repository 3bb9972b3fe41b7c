"""Measure the two ways to describe many photos: a model in each Ray actor, and an endpoint that is asked many at once.

    python -m tests.measurements.captioners actors --workers 2
    python -m tests.measurements.captioners endpoint

The model of the actors is LLaVA's kind, tiny and with random weights. The endpoint is a stand-in in a thread, which
answers each question after ``--seconds``, as a server with a 7B model does; above its limit, they wait. Printed are
photos a second, the most questions that the endpoint had at a time, and the memory of the command.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import click
import psutil

from tests.support import tiny
from xpsr_sdk import Registry, RunnerConfig, caption_folder, find_runner

ANSWER = {"choices": [{"message": {"content": "A house by the sea."}, "finish_reason": "stop"}]}


class Case(NamedTuple):
    """How an endpoint is asked.

    Attributes:
        concurrency: Questions at a time.
        batch_size: Photos that the provider gets together.
        photos: Photos in all.
        places: Questions that the endpoint answers at a time.
    """

    concurrency: int
    batch_size: int
    photos: int
    places: int = 64


CASES = (Case(1, 4, 16), Case(8, 16, 80), Case(32, 16, 192), Case(32, 128, 512), Case(32, 128, 384, places=16))


class Endpoint:
    """Counts the questions that it has at a time, and answers them."""

    def __init__(self, seconds: float, places: int) -> None:
        self.most = self.now = 0
        self._seconds, self._free = seconds, asyncio.Semaphore(places)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the questions of one connection."""
        while head := await _head(reader):
            [size] = [int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-len")]
            await reader.readexactly(size)
            self.now += 1
            self.most = max(self.most, self.now)
            async with self._free:
                await asyncio.sleep(self._seconds)
            self.now -= 1
            body = json.dumps(ANSWER).encode()
            told = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(told.encode() + body)
            await writer.drain()
        writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def run_endpoint(endpoint: Endpoint, port: Future[int]) -> None:
    """Serve, until the program ends."""
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    port.set_result(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def make_photos(folder: Path, count: int, side: int) -> Path:
    """A folder of photos of different content."""
    folder.mkdir()
    for seed in range(count):
        tiny.photo(side, side, seed).save(folder / f"{seed:05}.jpg")
    return folder


def describe(photos: Path, provider: dict[str, Any], batch_size: int, config: RunnerConfig) -> None:
    """Describe the photos, and print how quickly, counted from the first batch on, when the workers are warm."""
    began: list[tuple[float, int]] = []

    def progress(done: int, total: int) -> None:
        if done:
            began.append((time.perf_counter(), done))

    report = caption_folder(
        photos,
        prompt_provider=provider,
        batch_size=batch_size,
        registry=Registry([]),
        runner=find_runner(config),
        progress=progress,
    )
    (start, before), (end, done) = began[config.workers - 1], began[-1]
    memory = psutil.Process().memory_info().rss / 1e6
    click.echo(f"{report.described} described, {len(report.unprompted)} failed: ", nl=False)
    click.echo(f"{(done - before) / (end - start):.3g} photos/s, memory of the command {memory:.0f} MB")


@click.group()
def main() -> None:
    """Measure how photos are described."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("xpsr_sdk.runners").setLevel(logging.INFO)  # tells when each worker is warm


@main.command()
@click.option("--workers", default=1, show_default=True)
@click.option("--photos", default=160, show_default=True)
@click.option("--tokens", default=20, show_default=True, help="Of an answer.")
def actors(workers: int, photos: int, tokens: int) -> None:
    """A model in each of some Ray actors."""
    from tests.support import tiny_vlm  # loads transformers

    with tempfile.TemporaryDirectory() as folder:
        tiny_vlm.write_llava(Path(folder, "model"))
        provider = {"name": "transformers", "model": f"{folder}/model", "max_new_tokens": tokens, "keep_loaded": True}
        cluster = RunnerConfig(runner="ray", address="local", workers=workers, worker_gpus=0)
        describe(make_photos(Path(folder, "photos"), photos, 64), provider, 8, cluster)


@main.command()
@click.option("--seconds", default=1.0, show_default=True, help="Until the endpoint answers.")
@click.option("--side", default=256, show_default=True, help="Of the photos.")
def endpoint(seconds: float, side: int) -> None:
    """An endpoint, asked by one process, for each of the cases."""
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            port: Future[int] = Future()
            server = Endpoint(seconds, case.places)
            threading.Thread(target=lambda: asyncio.run(run_endpoint(server, port)), daemon=True).start()  # noqa: B023
            url = f"http://127.0.0.1:{port.result()}/v1"
            provider = {"name": "openai", "model": "stand-in", "base_url": url, "concurrency": case.concurrency}
            click.echo(f"{case}: ", nl=False)
            describe(
                make_photos(Path(folder, str(number)), case.photos, side), provider, case.batch_size, RunnerConfig()
            )
            click.echo(f"the endpoint had at most {server.most} questions at a time")


if __name__ == "__main__":
    main()
