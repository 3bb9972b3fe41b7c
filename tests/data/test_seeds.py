"""Generators that depend on their key alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from xpsr_sdk.data.seeds import generator_for

KEYS = st.tuples(st.integers(0, 2**32 - 1), st.sampled_from(["step", "epoch"]), st.integers(0, 10**7))


def first(*key: object) -> list[float]:
    return torch.rand(4, generator=generator_for(*key)).tolist()


@given(KEYS, KEYS)
def test_equal_keys_and_no_others_give_equal_numbers(a: tuple[object, ...], b: tuple[object, ...]) -> None:
    assert first(*a) == first(*a)
    assert (first(*a) == first(*b)) == (a == b)


def test_the_parts_of_a_key_stay_apart() -> None:
    assert first(1, 23) != first(12, 3)
