"""Checks a prompt provider against the contract of ``xpsr_sdk.PromptProvider``."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from xpsr_sdk.contracts import PROMPT_LEVELS, Item, PromptLevel, Prompts
from xpsr_sdk.data.photo import SMALLEST_SIDE
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.restoring import check_restoration
from xpsr_sdk.testing.subject import Choice, Subject, check_construction, for_all, require
from xpsr_sdk.testing.tiny import photo, write_whole_model

IN_ANOTHER_PROCESS = """
import json, pickle, sys
registry, choice, item = pickle.load(sys.stdin.buffer)
(said,) = registry.create("prompt_provider", choice).describe([item], ["high", "low"])
print("SAID", json.dumps({"high": said.high, "low": said.low}))
"""
ASKED: tuple[Any, ...] = (["high"], ["low"], ["low", "high"], {"high", "low"}, ("high",), [])


def check_prompt_provider(choice: Choice, registry: Registry | None = None) -> None:
    """Check a prompt provider against the whole contract of [PromptProvider][xpsr_sdk.contracts.PromptProvider].

    If a provider loads a large model, check it with options that name a small one.

    Args:
        choice: Its name, or ``{"name": ..., <options>}``.
        registry: The registry that holds it, for instance ``Registry([my_plugin])``. None: the installed plug-ins.

    Raises:
        ContractViolation: A clause is broken; the message says which one, and how to fix it.
    """
    subject = Subject.of("prompt_provider", choice, registry)
    check_construction(subject)
    provider = subject.build()
    with subject.clause("exceptions"):
        provider.describe([_item()], list(PROMPT_LEVELS))
    for check in (_answers, _levels, _inputs, _determinism, _batch, _any_image, _failure, _unload):
        check(subject, provider)
    with subject.clause("restoration"), TemporaryDirectory() as folder:
        write_whole_model(Path(folder, "model"))
        check_restoration(Path(folder, "model"), subject.registry, prompt_provider=subject.choice)


def _item(seed: int = 0, width: int = 40, height: int = 32) -> Item:
    return Item(photo(width, height, seed), Path(f"photos/a_photo_{seed}.png"), f"{seed:064x}")


def _describe(provider: Any, items: Sequence[Item], levels: Collection[PromptLevel] = PROMPT_LEVELS) -> list[Prompts]:
    answers: list[Prompts] = provider.describe(items, levels)
    require(isinstance(answers, list), f"describe() returned a {type(answers).__name__}, not a list")
    require(len(answers) == len(items), f"describe() returned {len(answers)} answers for {len(items)} items")
    for answer in answers:
        require(isinstance(answer, Prompts), f"an answer is a {type(answer).__name__}, not Prompts")
    return answers


def _answers(subject: Subject, provider: Any) -> None:
    with subject.clause("answers"):
        for count in (0, 1, 3):
            _describe(provider, [_item(i) for i in range(count)])
        _describe(provider, (_item(), Item(photo(40, 32))))  # a tuple, with an image that has no file


def _levels(subject: Subject, provider: Any) -> None:
    for levels in ASKED:
        with subject.clause("levels"):
            (answer,) = _describe(provider, [_item()], levels)
            for level in PROMPT_LEVELS:
                text = getattr(answer, level)
                require(text is None or isinstance(text, str), f"the {level} level is a {type(text).__name__}")
                require(text is None or level in levels, f"asked for {sorted(levels)}, it also gave the {level} level")
        with subject.clause("sources"):
            texts = {level for level in PROMPT_LEVELS if getattr(answer, level) is not None}
            require(
                set(answer.source) == texts, f"it has texts for {sorted(texts)}, sources for {sorted(answer.source)}"
            )
            named = all(isinstance(who, str) and who for who in answer.source.values())
            require(named, f"the sources are {dict(answer.source)}")
        with subject.clause("errors"):
            _check_errors(answer, levels)


def _check_errors(answer: Prompts, levels: Collection[PromptLevel]) -> None:
    for level, reason in answer.errors.items():
        require(level in levels, f"asked for {sorted(levels)}, it reports an error of {level!r}")
        require(getattr(answer, level) is None, f"the {level} level has a text and an error")
        require(isinstance(reason, str) and bool(reason.strip()), f"the error of the {level} level is {reason!r}")


def _inputs(subject: Subject, provider: Any) -> None:
    with subject.clause("inputs"):
        items = [_item(0), _item(1)]
        before = [(item.image.tobytes(), item.image.mode, item.image.size) for item in items]
        given = list(items)
        levels: list[PromptLevel] = list(PROMPT_LEVELS)
        _describe(provider, given, levels)
        now = [(item.image.tobytes(), item.image.mode, item.image.size) for item in items]
        require(now == before, "it changed an image")
        unchanged = len(given) == 2 and all(a is b for a, b in zip(given, items, strict=True))
        require(unchanged and levels == list(PROMPT_LEVELS), "it changed the list of items or of levels")


def _determinism(subject: Subject, provider: Any) -> None:
    with subject.clause("determinism"):
        (first,) = _describe(provider, [_item()])
        _describe(provider, [_item(1), _item(2)])
        (again,) = _describe(provider, [_item()])
        problem = f"the same image was described as {_texts(first)}, then as {_texts(again)}"
        require(_texts(again) == _texts(first), problem)
        fresh = subject.build()
        _describe(fresh, [_item(1)])
        (again,) = _describe(fresh, [_item()])
        fresh.unload()
        require(_texts(again) == _texts(first), f"after another image, it was described as {_texts(again)}")
        _check_images_of_no_file(subject)
        _check_processes(subject, first)


def _check_images_of_no_file(subject: Subject) -> None:
    """Images without a path are told apart by their pixels alone."""
    images = [Item(photo(40, 32, seed)) for seed in (3, 4)]
    said = [_texts(_describe(subject.build(), [image])[0]) for image in images]
    fresh = subject.build()
    for image, texts in zip(images, said, strict=True):
        (answer,) = _describe(fresh, [image])
        problem = f"of an image of no file it said {_texts(answer)} after another one, {texts} otherwise"
        require(_texts(answer) == texts, problem)
    fresh.unload()


def _check_processes(subject: Subject, first: Prompts) -> None:
    """The same words in another process, where sets have another order: it hashes texts in another way."""
    try:
        asked = pickle.dumps((subject.registry, subject.choice, _item()))
    except Exception:  # of a plug-in that lies in memory alone, no other process can have one
        return
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        run = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS], input=asked, capture_output=True, env=environment
        )
        if run.returncode:
            return  # it cannot be imported there
        told = json.loads(run.stdout.rpartition(b"SAID")[2])
        require(told == _texts(first), f"in another process it said {told} of an image, here {_texts(first)}")


def _batch(subject: Subject, provider: Any) -> None:
    with subject.clause("batch"):
        items = [_item(0), _item(1, 17, 50), _item(2, 64, 20)]
        alone = [_texts(_describe(provider, [item])[0]) for item in items]
        for order in ((0, 1, 2), (2, 0, 1)):
            together = [_texts(answer) for answer in _describe(provider, [items[i] for i in order])]
            for i, texts in zip(order, together, strict=True):
                problem = f"among others, an image was described as {texts}; alone, as {alone[i]}"
                require(texts == alone[i], problem)


def _any_image(subject: Subject, provider: Any) -> None:
    def test(width: int, height: int, color: int) -> None:
        flat = Item(Image.new("RGB", (width, height), (color, color, color)), Path("photos/flat.png"), "f" * 64)
        for answer in _describe(provider, [flat, _item(3, width, height)]):
            _check_errors(answer, PROMPT_LEVELS)
            if min(width, height) >= SMALLEST_SIDE:
                require(not answer.errors, f"an image of {width}x{height} gave the errors {dict(answer.errors)}")

    with subject.clause("any image"):
        sizes = st.one_of(st.integers(1, 20), st.sampled_from([64, 300]))
        for_all(test, examples=8, width=sizes, height=sizes, color=st.sampled_from([0, 128, 255]))


class DamagedImage(Image.Image):
    """An image whose pixels cannot be read."""

    def load(self) -> Any:
        """Raise ``OSError``, as Pillow does for a truncated file."""
        raise OSError("image file is truncated")


def _damaged() -> Item:
    image = DamagedImage()
    image._mode, image._size = "RGB", (40, 32)
    return Item(image, Path("photos/damaged.png"), "0" * 64)


def _failure(subject: Subject, provider: Any) -> None:
    with subject.clause("failure"):
        (alone,) = _describe(provider, [_item()])
        damaged, good = _describe(provider, [_damaged(), _item()])
        _check_errors(damaged, PROMPT_LEVELS)
        problem = f"next to a damaged image, an image was described as {_texts(good)}; alone, as {_texts(alone)}"
        require(_texts(good) == _texts(alone), problem)
        silent = {
            level for level in PROMPT_LEVELS if getattr(alone, level) is not None and getattr(damaged, level) is None
        }
        require(silent <= set(damaged.errors), f"it does not say why a damaged image has no text for {sorted(silent)}")


def _unload(subject: Subject, provider: Any) -> None:
    with subject.clause("unload"):
        (first,) = _describe(provider, [_item()])
        provider.unload()
        provider.unload()
        (again,) = _describe(provider, [_item()])
        problem = f"after unload(), the image was described as {_texts(again)}; before, as {_texts(first)}"
        require(_texts(again) == _texts(first), problem)
        subject.build().unload()  # before anything was loaded


def _texts(answer: Prompts) -> dict[str, str | None]:
    return {level: getattr(answer, level) for level in PROMPT_LEVELS}
