"""The local runner: each input once, whatever happens to a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.doubling import Doubling
from xpsr_sdk import ConfigError
from xpsr_sdk.errors import WorkerLost
from xpsr_sdk.runners.local import LocalRunner
from xpsr_sdk.runners.work import Done


def run(work: Doubling, numbers: list[int], **options: object) -> dict[int, Done[int, tuple[int, int]]]:
    runner = LocalRunner(**options)  # type: ignore[arg-type]
    found = list(runner.run(work, numbers))
    assert sorted(done.given for done in found) == sorted(numbers)
    return {done.given: done for done in found}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_input_is_done_once_by_workers_that_are_warmed_once(tmp_path: Path, workers: int) -> None:
    work = Doubling(tmp_path, begins_with=workers)
    done = run(work, list(range(7)), workers=workers)
    assert [done[number].result()[0] for number in range(7)] == [2 * number for number in range(7)]
    assert work.warmed() == len(list(tmp_path.glob("closed-*"))) == workers
    assert all(len(work.tries(number)) == 1 for number in range(7))
    assert (os.getpid() in {found.result()[1] for found in done.values()}) == (workers == 1)


def test_an_error_is_a_value_after_a_second_try_elsewhere(tmp_path: Path) -> None:
    work = Doubling(tmp_path)
    with pytest.warns(UserWarning, match="eight is large"):
        done = run(work, [6, 7, 8], workers=2)
    assert done[7].reason == "ValueError: seven is no number"
    assert len(set(work.tries(7))) == 2
    assert len(work.tries(6)) == len(work.tries(8)) == 1


def test_a_worker_that_dies_or_hangs_costs_its_input_alone(tmp_path: Path) -> None:
    work = Doubling(tmp_path, broken_at=3)
    done = run(work, [1, 2, 3, 4, 5, 9], workers=2, patience=2.0)
    assert "died with exit code -9" in done[3].reason
    assert "more than 2 seconds" in done[9].reason
    assert all(isinstance(done[number].error, WorkerLost) for number in (3, 9))
    assert all(done[number].result()[0] == 2 * number for number in (1, 2, 4, 5))
    assert len(set(work.tries(3))) == len(set(work.tries(9))) == 2


def test_inputs_wait_while_all_workers_are_replaced(tmp_path: Path) -> None:
    work = Doubling(tmp_path, broken_at=3)
    done = run(work, [3, 4, 5], workers=1, patience=60.0)  # a single process, since there is a time limit
    assert "died with exit code -9" in done[3].reason
    assert [done[number].result()[0] for number in (4, 5)] == [8, 10]


def test_what_is_wrong_for_all_is_raised_at_once(tmp_path: Path) -> None:
    for workers in (1, 2):
        with pytest.raises(ConfigError, match="There is no such model"):
            run(Doubling(tmp_path, broken_at=0), [1, 2, 3], workers=workers)


def test_inputs_are_taken_when_a_worker_is_free_and_workers_end_early(tmp_path: Path) -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(10, 1_000_000):
            taken.append(number)
            yield number

    work = Doubling(tmp_path)
    results = LocalRunner(2).run(work, numbers())
    next(results)
    results.close()
    assert len(taken) <= 4


def test_workers_share_the_cores_and_each_gets_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from xpsr_sdk.runners import local

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    shares = [local.shares_of(place, 4) for place in range(4)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["2", "5", "2", "5"]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {"2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert local.shares_of(0, 2) == {}
