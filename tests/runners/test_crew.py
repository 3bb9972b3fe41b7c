"""Who does what: parts of an input that failed are done by another worker, and by nobody a third time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.two_hands import TwoHands
from xpsr_sdk.runners.local import LocalRunner
from xpsr_sdk.runners.work import PartlyFailed, Runner


class Halving:
    """Halves numbers. The first worker fails at those above 10, and all fail at odd ones."""

    def __init__(self) -> None:
        self.workers = 0
        self.tried: list[tuple[int, tuple[int, ...]]] = []

    @contextmanager
    def warm(self) -> Iterator[Callable[[tuple[int, ...]], dict[int, int | str]]]:
        self.workers += 1
        worker = self.workers

        def halve(numbers: tuple[int, ...]) -> dict[int, int | str]:
            self.tried.append((worker, numbers))
            failed = tuple(number for number in numbers if number % 2 or (worker == 1 and number > 10))
            output = {number: "failed" if number in failed else number // 2 for number in numbers}
            if failed:
                others = {number: half for number, half in output.items() if number not in failed}
                raise PartlyFailed(output, failed, (tuple(others), others) if others else None)
            return output

        yield halve


def run(work: Halving, runner: Runner) -> dict[int, int | str]:
    halves: dict[int, int | str] = {}
    for done in runner.run(work, [(2, 4, 12), (6, 7), (8,), (16,)]):
        assert halves.keys().isdisjoint(done.given)
        assert list(done.given) == list(done.result())
        halves |= done.result()
    return halves


def test_what_failed_of_an_input_is_done_by_another_worker() -> None:
    work = Halving()
    assert run(work, TwoHands()) == {2: 1, 4: 2, 12: 6, 6: 3, 7: "failed", 8: 4, 16: 8}
    assert [worker for worker, numbers in work.tried if numbers == (12,)] == [2]
    assert sorted(worker for worker, numbers in work.tried if 7 in numbers) == [1, 2]


def test_a_single_process_tries_once() -> None:
    work = Halving()
    assert run(work, LocalRunner()) == {2: 1, 4: 2, 12: "failed", 6: 3, 7: "failed", 8: 4, 16: "failed"}
    assert len(work.tried) == 4
