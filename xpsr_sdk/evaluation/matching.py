"""Finds the images of two folders that belong together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from xpsr_sdk.data.files import READABLE, find_images, listed
from xpsr_sdk.errors import ConfigError

SCALE_SUFFIX = re.compile(r"[_-]?x\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """Two images to compare.

    Attributes:
        name: What the paths of both have in common, below their folders and without extension.
        pred: The restored image.
        hr: The original.
    """

    name: str
    pred: Path
    hr: Path


def match(pred: Path, hr: Path) -> list[Pair]:
    """Pair the images of two folders by their path below the folder, without extension.

    Where those differ and the folders hold equally many images, a scale at the end of a name (``_x4``,
    ``-x4``, ``x4``, any number) is left out on both sides: ``Canon_10_x4.png`` belongs to
    ``Canon_10_x1.png``. Two files instead of two folders are one pair.

    Raises:
        ConfigError: An image has no partner, two have the same name, or a folder holds no image.
    """
    if pred.is_file() and hr.is_file():
        return [Pair(pred.stem, pred, hr)]
    preds, hrs = _by_name(pred), _by_name(hr)
    if preds.keys() != hrs.keys() and len(preds) == len(hrs):
        bare_preds, bare_hrs = _without_scale(preds), _without_scale(hrs)
        if len(bare_preds) == len(preds) and bare_preds.keys() == bare_hrs.keys():
            preds, hrs = bare_preds, bare_hrs
    if preds.keys() != hrs.keys():
        missing = _names(f"without a partner in {pred}", hrs.keys() - preds.keys())
        extra = _names(f"without a partner in {hr}", preds.keys() - hrs.keys())
        raise ConfigError(
            f"The folders {pred} and {hr} do not hold the same images: "
            f"{'; '.join(filter(None, [missing, extra]))}. "
            "Equal names are expected, but for the extension and a scale such as _x4."
        )
    return [Pair(name, preds[name], hrs[name]) for name in sorted(preds)]


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: give two folders, or two images.")
    named: dict[str, Path] = {}
    for path in find_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise ConfigError(f"{named[name]} and {path} have the same name: keep one of them.")
        named[name] = path
    if not named:
        raise ConfigError(f"The folder {folder} holds no image ({listed(READABLE)}).")
    return named


def _without_scale(named: dict[str, Path]) -> dict[str, Path]:
    return {SCALE_SUFFIX.sub("", name): path for name, path in named.items()}


def _names(what: str, names: set[str], most: int = 10) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(sorted(names)[:most])}{more}"
