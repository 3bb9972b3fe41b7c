"""Finds the images of two folders that belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xpsr_sdk.data.files import READABLE, find_images, listed
from xpsr_sdk.data.matching import SCALE, pair_names
from xpsr_sdk.errors import ConfigError


@dataclass(frozen=True)
class Pair:
    """Two images to compare.

    Attributes:
        name: What the paths of both have in common, below their folders and without extension.
        pred: The restored image.
        hr: The original; None if there is none.
    """

    name: str
    pred: Path
    hr: Path | None


def match(pred: Path, hr: Path) -> list[Pair]:
    """Pair the images of two folders by their path below the folder, without extension.

    Where those differ and the folders hold equally many images, an ending that all names of a folder share is left out:
    see ``pair_names``. Two files instead of two folders are one pair.

    Raises:
        ConfigError: An image has no partner, two have the same name, or a folder holds no image.
    """
    if pred.is_file() and hr.is_file():
        return [Pair(pred.stem, pred, hr)]
    preds, hrs = _by_whole_name(pred), _by_whole_name(hr)
    if preds.keys() != hrs.keys():  # a.jpg beside a.png is no trouble if both folders have them
        preds, hrs = _by_name(pred), _by_name(hr)
    partners = pair_names(preds, hrs)
    if partners is None:
        missing = _names(f"without a partner in {pred}", hrs.keys() - preds.keys())
        extra = _names(f"without a partner in {hr}", preds.keys() - hrs.keys())
        raise ConfigError(
            f"The folders {pred} and {hr} do not hold the same images: "
            f"{'; '.join(filter(None, [missing, extra]))}. Equal names are expected, but for the extension and an "
            "ending that all names of a folder share, such as _x4 or _LR. To measure the photos that both hold, name "
            "the originals as --reference."
        )
    return [
        Pair(partner.removesuffix(hrs[partner].suffix), preds[name], hrs[partner])
        for name, partner in sorted(partners.items())
    ]


@dataclass(frozen=True)
class Matched:
    """The files of several methods, by the name of the photo.

    Attributes:
        methods: The files of each method.
        references: The originals; empty if there are none.
        inputs: The degraded photos; empty if there are none.
        missing: For each method that lacks photos, their names.
    """

    methods: Mapping[str, Mapping[str, Path]]
    references: Mapping[str, Path]
    inputs: Mapping[str, Path]
    missing: Mapping[str, tuple[str, ...]]


def match_methods(methods: Mapping[str, Path], reference: Path | None, inputs: Path | None) -> Matched:
    """Find the photos of several methods that belong together, by the rules of ``match``.

    The photos are those of the references, or, without them, those that any method has. A method may lack some.

    Raises:
        ConfigError: A folder holds no image, or two of the same name; or a method has no photo of the references.
    """
    found = {name: _by_name(folder) for name, folder in methods.items()}
    references = {} if reference is None else _by_name(reference)
    wanted = references or _all_photos(found.values())
    matched = {method: _partners(wanted, files) for method, files in found.items()}
    for method, files in matched.items():
        if not files:
            raise ConfigError(f"None of the photos in {methods[method]} has the name of one in {reference}.")
    missing = {
        method: tuple(sorted(wanted.keys() - files.keys()))
        for method, files in matched.items()
        if wanted.keys() - files.keys()
    }
    return Matched(matched, references, {} if inputs is None else _partners(wanted, _by_name(inputs)), missing)


def _all_photos(methods: Iterable[Mapping[str, Path]]) -> dict[str, Path]:
    """The photos that any method has, each under the name that the first method gives it."""
    photos: dict[str, Path] = {}
    for files in methods:
        known = set(_partners(photos, files).values()) if photos else set()
        photos |= {name: path for name, path in files.items() if path not in known}
    return photos


def _partners(wanted: Mapping[str, Path], files: Mapping[str, Path]) -> dict[str, Path]:
    """The file of each wanted name: by ``pair_names``, or of the same name but for a scale at its end."""
    if found := pair_names(wanted, files):
        return {name: files[partner] for name, partner in sorted(found.items())}
    bare_wanted = Counter(SCALE.sub("", name) for name in wanted)
    bare_files: dict[str, list[Path]] = {}
    for name, path in files.items():
        bare_files.setdefault(SCALE.sub("", name), []).append(path)
    partners = {}
    for name in sorted(wanted):
        bare = SCALE.sub("", name)
        alike = bare_files.get(bare, [])
        if name in files:
            partners[name] = files[name]
        elif len(alike) == bare_wanted[bare] == 1:
            partners[name] = alike[0]
    return partners


def _by_whole_name(folder: Path) -> dict[str, Path]:
    """The images of a folder by their path below it."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: give two folders, or two images.")
    named = {path.relative_to(folder).as_posix(): path for path in find_images(folder)}
    if not named:
        raise ConfigError(f"The folder {folder} holds no image ({listed(READABLE)}).")
    return named


def _by_name(folder: Path) -> dict[str, Path]:
    """The same without their extensions."""
    named: dict[str, Path] = {}
    for whole, path in _by_whole_name(folder).items():
        name = _bare(whole)
        if name in named:
            raise ConfigError(f"{named[name]} and {path} have the same name: keep one of them.")
        named[name] = path
    return named


def _bare(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _names(what: str, names: set[str], most: int = 10) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what}: {', '.join(sorted(names)[:most])}{more}"
