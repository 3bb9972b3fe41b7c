"""Which names in two folders belong together: of a sharp photo and its degraded, or its restored version."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import product

SCALE = re.compile(r"[_-]?x\d+$", re.IGNORECASE)
"""A scale at the end of a name."""
_ENDING = re.compile(r"[_\-. ]")
_DEGRADED = re.compile(r"(^|[_\-. ])(lr|lq)(?=[_\-. x\d]|$)", re.IGNORECASE)
_SHARP = re.compile(r"(^|[_\-. ])(hr|gt)(?=[_\-. ]|$)", re.IGNORECASE)


def says_degraded(name: str) -> bool:
    """Whether a name says that what it names is the degraded half of pairs: ``LR``, ``Canon_001_LR4``."""
    return bool(_DEGRADED.search(name))


def says_sharp(name: str) -> bool:
    """Whether a name says that what it names is the sharp half of pairs: ``GT``, ``Canon_001_HR``."""
    return bool(_SHARP.search(name))


def pair_names(left: Collection[str], right: Collection[str]) -> dict[str, str] | None:
    """The partner on the right of each name on the left; None if they do not belong together.

    Names are equal, or they are equally many and become equal when an ending that all names of a side share is left
    out: ``0_out`` belongs to ``0``, ``Canon_001_LR4`` to ``Canon_001_HR``, ``a_x4`` to ``a_x1``. An ending needs a
    letter, so that ``photo_1`` does not belong to ``photo_2``.

    Args:
        left: Names without file extensions.
        right: Likewise.
    """
    if set(left) == set(right):
        return {name: name for name in left}
    if len(left) != len(right):
        return None
    # The shortest endings first.
    pairs = sorted(product(_endings(left), _endings(right)), key=lambda pair: len(pair[0]) + len(pair[1]))
    patterns = [(SCALE, SCALE), *((re.compile(f"{re.escape(a)}$"), re.compile(f"{re.escape(b)}$")) for a, b in pairs)]
    for of_left, of_right in patterns:
        bare_left, bare_right = ({p.sub("", n): n for n in ns} for p, ns in ((of_left, left), (of_right, right)))
        if bare_left.keys() == bare_right.keys() and len(bare_left) == len(left):
            return {name: bare_right[bare] for bare, name in bare_left.items()}
    return None


def _endings(names: Collection[str]) -> Iterator[str]:
    """The endings with a letter that all names share, and the empty one."""
    yield ""
    first = min(names)
    scale = SCALE.search(first)
    starts = {match.start() for match in _ENDING.finditer(first)} | ({scale.start()} if scale else set())
    for start in starts:
        ending = first[start:]
        is_whole = start == 0 or first[start - 1] == "/"
        if not is_whole and re.search("[a-z]", ending, re.IGNORECASE) and all(n.endswith(ending) for n in names):
            yield ending
