"""A queue gives everybody the photo that they asked for, whoever else is asking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import tiny
from xpsr_sdk import (
    ConfigError,
    ImageError,
    Pipeline,
    QueueClosed,
    QueueFull,
    Registry,
    RestorationQueue,
    build_pipeline,
)
from xpsr_sdk.data.photo import load_photo

PHOTOS = [tiny.photo(20, 16, seed) for seed in range(4)]


def levels(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


@pytest.fixture
def own(tiny_model: Path) -> Pipeline:
    """A pipeline that the test may change."""
    return build_pipeline(model=str(tiny_model), device="cpu")


@pytest.fixture
def held(own: Pipeline) -> Iterator[tuple[Pipeline, threading.Event, threading.Event]]:
    """A pipeline whose calls begin (first event), and wait until they are let go (second event)."""
    begun, go = threading.Event(), threading.Event()
    sample = own.sampler.sample

    def slow(denoiser: Any, latents: Any, **options: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return sample(denoiser, latents, **options)

    own.sampler.sample = slow  # type: ignore[method-assign]
    yield own, begun, go
    go.set()


def test_many_threads_get_their_own_photos(own: Pipeline, pipe: Pipeline) -> None:
    with RestorationQueue(own) as queue, ThreadPoolExecutor(4) as threads:
        calls = [(photo, {"seed": i, "fidelity": 0, "prompt": f"number {i}"}) for i, photo in enumerate(PHOTOS)]
        futures = list(threads.map(lambda call: queue.submit(call[0], **call[1]), calls))
        results = [future.result() for future in futures]
    for (photo, settings), result in zip(calls, results, strict=True):
        assert levels(result.image, pipe(photo, **settings).image) <= 2
        assert result.seed == settings["seed"]


def test_compatible_requests_share_a_batch(held: Any, pipe: Pipeline) -> None:
    pipeline, begun, go = held
    with RestorationQueue(pipeline, max_batch=3) as queue:
        first = queue.submit(PHOTOS[0], seed=0)
        assert begun.wait(60)
        same = [queue.submit(photo, seed=7, guidance_scale=2, low_prompt="blurry") for photo in PHOTOS]
        other = queue.submit(tiny.photo(16, 20), seed=7, guidance_scale=2)
        go.set()
        assert first.result().plan.images == 1
        assert [future.result().plan.images for future in same] == [3, 3, 3, 1]
        assert other.result().plan.images == 1
    for photo, future in zip(PHOTOS, same, strict=True):
        alone = pipe(photo, seed=7, guidance_scale=2, low_prompt="blurry").image
        assert levels(future.result().image, alone) <= 2


def test_those_with_and_without_a_low_level_prompt_are_kept_apart(tiny_model: Path) -> None:
    pipeline = build_pipeline(model=str(tiny_model), device="cpu", prompt_provider="fixed")
    chosen = [pipeline.resolve({"seed": 1, "low_prompt": low}) for low in (None, "blurry", None)]
    results = pipeline.restore([load_photo(photo, chosen[0]) for photo in PHOTOS[:3]], chosen)
    assert [result.plan.images for result in results] == [2, 1, 2]
    assert [result.prompts.low for result in results] == [None, "blurry", None]


def test_a_full_queue_says_so(held: Any) -> None:
    pipeline, begun, go = held
    with RestorationQueue(pipeline, queue_size=1) as queue:
        queue.submit(PHOTOS[0])
        assert begun.wait(60)
        queue.submit(PHOTOS[1])
        with pytest.raises(QueueFull, match="queue of 1 is full"):
            queue.submit(PHOTOS[2], timeout=0)
        go.set()


def test_what_waits_or_runs_can_be_cancelled(held: Any) -> None:
    pipeline, begun, go = held
    with RestorationQueue(pipeline) as queue:
        running = queue.submit(PHOTOS[0])
        assert begun.wait(60)
        waiting, kept = queue.submit(PHOTOS[1], scale=2), queue.submit(PHOTOS[2])
        assert running.cancel()
        assert waiting.cancel()
        go.set()
        assert kept.result().image.size == (80, 64)
    for future in (running, waiting):
        with pytest.raises(CancelledError):
            future.result()


def test_what_is_cancelled_makes_room_and_ends_waiting(held: Any) -> None:
    pipeline, begun, go = held
    with RestorationQueue(pipeline, queue_size=1) as queue:
        queue.submit(PHOTOS[0])
        assert begun.wait(60)
        cancelled = queue.submit(PHOTOS[1])
        cancelled.cancel()
        assert wait([cancelled], timeout=60).done == {cancelled}
        kept = queue.submit(PHOTOS[2], timeout=0)
        go.set()
        assert kept.result().image.size == (80, 64)


def test_a_damaged_file_is_not_the_failure_of_its_neighbours(held: Any, tmp_path: Path) -> None:
    pipeline, begun, go = held
    whole, damaged = tmp_path / "whole.png", tmp_path / "damaged.png"
    PHOTOS[1].save(whole)
    damaged.write_bytes(whole.read_bytes()[:-400])
    with RestorationQueue(pipeline) as queue:
        queue.submit(PHOTOS[0])
        assert begun.wait(60)
        good, bad, fine = (queue.submit(file) for file in (whole, damaged, whole))
        go.set()
        assert good.result().image.size == fine.result().image.size
        with pytest.raises(ImageError, match="damaged"):
            bad.result()


def test_a_part_that_exits_leaves_nobody_waiting(own: Pipeline) -> None:
    def leave(*_: Any) -> None:
        raise SystemExit(3)

    with RestorationQueue(own) as queue:
        handle = own.unet.register_forward_pre_hook(leave)
        with pytest.raises(SystemExit):
            queue.submit(PHOTOS[0]).result(60)
        handle.remove()
        assert queue.submit(PHOTOS[0]).result(60).image.size == (80, 64)


def test_callbacks_of_results_may_submit_and_close(own: Pipeline) -> None:
    queue = RestorationQueue(own, max_batch=1, queue_size=1)
    outcomes: list[Any] = []

    def go_on(_: Any) -> None:
        outcomes.append(queue.submit(PHOTOS[1]))
        queue.close()

    queue.submit(PHOTOS[0]).add_done_callback(go_on)
    queue._worker.join(60)
    assert outcomes[0].result(0).image.size == (80, 64)


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"queue_size": 0}, {"max_batch": -1}])
def test_a_queue_needs_room(own: Pipeline, options: Any) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        RestorationQueue(own, **options)


def test_a_failure_costs_its_request_only(own: Pipeline) -> None:
    with RestorationQueue(own) as queue:
        with pytest.raises(ConfigError, match="fidelity"):
            queue.submit(PHOTOS[0], fidelity=2)
        with pytest.raises(ImageError, match="nowhere"):
            queue.submit("nowhere.png")
        too_small, good = queue.submit(tiny.photo(3, 3)), queue.submit(PHOTOS[0])
        with pytest.raises(ImageError, match="at least 16 pixels"):
            too_small.result()
        assert good.result().image.size == (80, 64)


def test_a_closed_queue_takes_no_more(own: Pipeline) -> None:
    queue = RestorationQueue(own)
    future = queue.submit(PHOTOS[0])
    queue.close()
    assert future.done()
    with pytest.raises(QueueClosed):
        queue.submit(PHOTOS[0])


def test_leaving_with_an_error_cancels_what_waits(held: Any) -> None:
    pipeline, begun, go = held
    waiting = []

    def leave_with_an_error() -> None:
        with RestorationQueue(pipeline) as queue:
            queue.submit(PHOTOS[0])
            assert begun.wait(60)
            waiting.append(queue.submit(PHOTOS[1]))
            threading.Timer(0.2, go.set).start()
            raise KeyError

    with pytest.raises(KeyError):
        leave_with_an_error()
    assert waiting[0].cancelled()


def test_each_photo_may_come_with_its_own_pipeline_and_is_watched(own: Pipeline) -> None:
    told: list[tuple[str, int, int]] = []
    other = own.with_parts(sampler=Registry([]).create("sampler", "euler"))
    assert other.unet is own.unet
    with RestorationQueue() as queue:
        with pytest.raises(ConfigError, match="no pipeline of its own"):
            queue.submit(PHOTOS[0])
        settings = {"seed": 1, "fidelity": 0, "num_inference_steps": 3, "tile": 64, "tile_batch": 1}
        first = queue.submit(PHOTOS[0], pipeline=own, watch=lambda *each: told.append(each), **settings)
        second = queue.submit(PHOTOS[0], pipeline=other, **settings)
    tiles = first.result().plan.tiles
    assert tiles > 1
    denoise = [each for each in told if each[0] == "denoise" and each[2]]
    assert denoise[-3 * tiles :] == [("denoise", i, tiles) for i in range(3 * tiles)]
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == [
        *("prompts", "text", "regions", "upscale", "denoise", "decode"),
    ]
    assert levels(first.result().image, second.result().image) > 0


def test_what_a_watcher_raises_ends_its_own_restoration_alone(own: Pipeline) -> None:
    def refuse(*_: object) -> None:
        raise ImageError("enough")

    with RestorationQueue(own) as queue:
        with pytest.raises(ImageError, match="enough"):
            queue.submit(PHOTOS[0], watch=refuse).result(60)
        assert queue.submit(PHOTOS[0]).result(60).image.size == (80, 64)
