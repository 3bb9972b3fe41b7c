"""Several providers as one."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from tests.support import tiny
from xpsr_sdk import Item, Prompts, UnknownComponent, default_registry
from xpsr_sdk.builtin.fixed import FixedPrompts

PHOTO = tiny.photo(20, 16)


def ensemble(**options: object) -> object:
    return default_registry().create("prompt_provider", {"name": "ensemble", **options})


def test_each_level_from_its_own() -> None:
    provider = ensemble(high=[{"name": "fixed", "high": "a house", "low": "not asked"}], low=["measured"])
    (said,) = provider.describe([Item(PHOTO)], ["high", "low"])  # type: ignore[attr-defined]
    assert said.high == "a house"
    assert said.source == {"high": "fixed", "low": "measured"}
    assert not said.errors


def test_the_next_one_is_asked_where_one_fails_and_that_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a.low.txt").write_text("blurry")
    items = [Item(PHOTO, tmp_path / name) for name in ("a.png", "b.png")]
    provider = ensemble()
    with pytest.warns(UserWarning, match=r"The low-level prompt is from measured instead: There is no .*b\.low\.txt"):
        first, second = provider.describe(items, ["low"])  # type: ignore[attr-defined]
    assert (first.low, first.source, first.errors) == ("blurry", {"low": "sidecar"}, {})
    assert (second.source, second.errors) == ({"low": "measured"}, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        provider.describe(items, ["low"])  # type: ignore[attr-defined]


def test_if_all_fail_all_reasons_are_given(tmp_path: Path) -> None:
    provider = ensemble(high=["sidecar", "stored"], low=["measured"])
    (said,) = provider.describe([Item(PHOTO, tmp_path / "a.png", "aa")], ["high"])  # type: ignore[attr-defined]
    assert said.high is None
    assert "a.high.txt" in said.errors["high"]
    assert "prompts.sqlite" in said.errors["high"]


def test_a_provider_for_both_levels_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def describe(self: object, items: Sequence[Item], levels: Collection[str]) -> list[Prompts]:
        seen.append(self)
        return [Prompts("a house", "blurry") for _ in items]

    monkeypatch.setattr(FixedPrompts, "describe", describe)
    provider = ensemble(high=["fixed"], low=["fixed"])
    provider.describe([Item(PHOTO)], ["high", "low"])  # type: ignore[attr-defined]
    assert seen[0] is seen[1]
    provider.unload()  # type: ignore[attr-defined]


def test_an_unknown_provider_is_told_at_once() -> None:
    with pytest.raises(UnknownComponent, match="Did you mean 'measured'"):
        ensemble(high=["measurd"])
