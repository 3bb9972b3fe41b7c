"""What a worker does: it answers values, errors and warnings, and raises nothing itself."""

from __future__ import annotations

from pathlib import Path

from tests.support.doubling import Doubling
from xpsr_sdk import ConfigError
from xpsr_sdk.runners.hand import Answer, Hand


def test_a_hand_answers_values_errors_and_warnings(tmp_path: Path) -> None:
    hand = Hand(Doubling(tmp_path))
    assert hand.get_ready() == Answer()
    assert hand.do(3).value[0] == 6
    assert str(hand.do(7).error) == "seven is no number"
    assert hand.do(8).warnings == ("eight is large",)
    hand.close()
    assert list(tmp_path.glob("closed-*"))


def test_a_work_that_cannot_begin_is_an_answer_too(tmp_path: Path) -> None:
    hand = Hand(Doubling(tmp_path, broken_at=0))
    assert isinstance(hand.get_ready().error, ConfigError)
    hand.close()
