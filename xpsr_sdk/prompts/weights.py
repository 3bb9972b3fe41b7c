"""Weights in prompts: ``(word:1.2)`` counts 1.2 times as much, ``(word)`` 1.1 times, ``[word]`` 1 / 1.1 times.

This is the syntax of AUTOMATIC1111's web UI. Brackets may be nested, and their weights are multiplied. ``\\(`` is a
bracket that is part of the text.
"""

from __future__ import annotations

import re

STRONGER = 1.1
TOKEN = re.compile(r"\\[\\()\[\]]|[(\[\])]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[^\\()\[\]:]+|.", re.DOTALL)


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """The parts of a prompt, each with its weight. A bracket without its partner is part of the text."""
    parts: list[tuple[str, float]] = []
    opened: list[int] = []  # indices of open brackets in ``parts``
    for match in TOKEN.finditer(prompt):
        text = match[0]
        bracket, weight = _closing(match)
        if bracket and opened and parts[opened[-1]][0] == bracket:
            first = opened.pop()
            parts[first:] = [(inside, of_inside * weight) for inside, of_inside in parts[first + 1 :]]
            continue
        if text in ("(", "["):
            opened.append(len(parts))
        parts.append((text[1:] if text[0] == "\\" and len(text) == 2 else text, 1.0))
    return _joined(parts)


def _closing(match: re.Match[str]) -> tuple[str, float]:
    """The bracket that is closed here, and the weight of the text inside."""
    if match[1] is not None:
        return "(", float(match[1])
    return {")": ("(", STRONGER), "]": ("[", 1 / STRONGER)}.get(match[0], ("", 1.0))


def escape_weights(text: str) -> str:
    """Escape all brackets in a text, so that they set no weights."""
    return re.sub(r"([\\()\[\]])", r"\\\1", text)


def _joined(parts: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Join neighbouring parts with the same weight."""
    joined: list[tuple[str, float]] = []
    for text, weight in parts:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined or [("", 1.0)]
