"""Brackets in prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpsr_sdk.prompts.weights import escape_weights, parse_weights


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("", [("", 1.0)]),
        ("a house", [("a house", 1.0)]),
        ("a (house:1.2) here", [("a ", 1.0), ("house", 1.2), (" here", 1.0)]),
        ("a (house)", [("a ", 1.0), ("house", 1.1)]),
        ("((house))", [("house", 1.1 * 1.1)]),
        ("[house]", [("house", 1 / 1.1)]),
        ("(a [b] c:2)", [("a ", 2.0), ("b", 2 / 1.1), (" c", 2.0)]),
        (r"a \(house:1.2\)", [("a (house:1.2)", 1.0)]),
        ("time: 12:30, (a : b)", [("time: 12:30, ", 1.0), ("a : b", 1.1)]),
        ("(open", [("(open", 1.0)]),
        ("shut)", [("shut)", 1.0)]),
        ("(crossed]", [("(crossed]", 1.0)]),
        ("no bracket :1.2)", [("no bracket :1.2)", 1.0)]),
        (":)", [(":)", 1.0)]),
        ("back\\slash", [("back\\slash", 1.0)]),
    ],
)
def test_brackets_set_weights(prompt: str, parts: list[tuple[str, float]]) -> None:
    found = parse_weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


@given(st.text(alphabet="ab ()[]:.12\\"))
def test_escaped_text_is_that_text(text: str) -> None:
    assert parse_weights(escape_weights(text)) == [(text, 1.0)]
