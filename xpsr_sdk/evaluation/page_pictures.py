"""The pictures of a report: crops where methods differ most, and the best and worst photos; and the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from xpsr_sdk.data.images import read_image
from xpsr_sdk.errors import XPSRError
from xpsr_sdk.evaluation.comparison import Comparison, heading
from xpsr_sdk.evaluation.crops import Crop, crops_that_differ, cut
from xpsr_sdk.evaluation.page_parts import escaped
from xpsr_sdk.evaluation.pictures import Pictures
from xpsr_sdk.evaluation.report import printed

EXTREMES, THUMBNAIL = 3, 160
"""How many of the best and worst photos are shown, and how large."""


def crops(comparison: Comparison, pictures: Pictures, count: int) -> Iterator[str]:
    """Where the methods differ most, with a slider for each place."""
    matched = comparison.matched
    found = crops_that_differ(matched.methods, matched.references, count)
    if not found:
        return
    yield '<p class="handling">Each slider shows one version on its left and another one on its right. Drag it, or use '
    yield "the arrow keys.</p>"
    for crop in found:
        yield from _crop(comparison, crop, pictures)


def _crop(comparison: Comparison, crop: Crop, pictures: Pictures) -> Iterator[str]:
    matched, photo = comparison.matched, crop.photo
    versions = {method: files[photo] for method, files in matched.methods.items() if photo in files}
    size = read_image(next(iter(versions.values()))).image.size
    around = {"input": matched.inputs.get(photo), "reference": matched.references.get(photo)}
    files = [("input", around["input"]), *versions.items(), ("reference", around["reference"])]
    shown = [(name, path) for name, path in files if path is not None]
    left, top, right, bottom = crop.box
    place = f"{right - left} x {bottom - top} pixels at ({left}, {top}), mean difference {crop.difference:.1f} of 255"
    yield f'<h3>{escaped(photo)}</h3><p class="note">{place}</p><div class="place">'
    names = [name for name, _ in shown]
    yield from _slider(photo, names, first=int(len(versions) > 1 and around["input"] is not None))
    yield '<div><div class="crops">'
    for name, path in shown:
        try:
            source = pictures.photo(cut(path, crop.box, size))
        except XPSRError:
            source = ""
        yield f'<figure><img src="{source}" alt="{escaped(photo)}, {escaped(name)}">'
        yield f"<figcaption>{escaped(name)}</figcaption></figure>"
    yield "</div>"
    yield from _prompts_of(comparison, photo, versions)
    yield "</div></div>"


def _slider(photo: str, names: Sequence[str], first: int) -> Iterator[str]:
    def options(chosen: int) -> str:
        return "".join(
            f'<option value="{i}"{" selected" if i == chosen else ""}>{escaped(name)}</option>'
            for i, name in enumerate(names)
        )

    yield '<div class="slider" hidden><div class="stack"><img alt=""><img class="over" alt="">'
    label = f"How much of {escaped(photo)} is the left version"
    yield f'<input type="range" min="0" max="100" value="50" aria-label="{label}"></div>'
    yield f'<div class="choices"><label>Left <select>{options(first)}</select></label>'
    yield f"<label>Right <select>{options(min(first + 1, len(names) - 1))}</select></label></div></div>"


def extremes(comparison: Comparison, pictures: Pictures) -> Iterator[str]:
    """The best and the worst photos of each method, by each metric."""
    for method in comparison.methods:
        if photos := "".join(_extremes_of(comparison, method, pictures)):
            is_first = method == comparison.baseline
            yield f"<details{' open' if is_first else ''}><summary>{escaped(method)}</summary>{photos}</details>"


def _extremes_of(comparison: Comparison, method: str, pictures: Pictures) -> Iterator[str]:
    scores, files = comparison.methods[method], comparison.matched.methods[method]
    sources: dict[str, str] = {}
    for chosen in comparison.metrics:
        values = scores.values(chosen.name)
        order = sorted(values, key=lambda name: values[name], reverse=not chosen.metric.lower_is_better)
        if len(order) < 2:
            continue
        many = min(EXTREMES, len(order) // 2)
        yield f'<h3>{escaped(heading(chosen))}</h3><div class="extremes">'
        for word, names in (("Best", order[:many]), ("Worst", order[: -many - 1 : -1])):
            yield f'<div><h4>{word}</h4><div class="photos">'
            for name in names:
                if name not in sources:
                    sources[name] = pictures.photo(_thumbnail(files[name]))
                yield f'<figure><img src="{sources[name]}" alt="{escaped(name)}">'
                figure = printed(values[name], comparison.places(chosen))
                yield f"<figcaption>{figure}: {escaped(name)}</figcaption></figure>"
            yield "</div></div>"
        yield "</div>"


def _thumbnail(path: Path) -> Image.Image:
    try:
        image = read_image(path).image
    except XPSRError:  # measured in an earlier run
        return Image.new("RGB", (THUMBNAIL, THUMBNAIL), "gray")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def prompts(comparison: Comparison) -> Iterator[str]:
    """The prompts of all photos, as far as logs tell them."""
    photos = sorted({photo for files in comparison.matched.methods.values() for photo in files})
    texts = {}
    for photo in photos:
        versions = {method: files[photo] for method, files in comparison.matched.methods.items() if photo in files}
        texts[photo] = "".join(_prompts_of(comparison, photo, versions))
    if any(texts.values()):
        yield "<details><summary>Show the prompts of all photos</summary>"
        yield from (f"<h3>{escaped(photo)}</h3>{text}" for photo, text in texts.items() if text)
        yield "</details>"


def _prompts_of(comparison: Comparison, photo: str, versions: Mapping[str, Path]) -> Iterator[str]:
    """The prompts of a photo's versions, each text once, with the methods that it was used by."""
    users: dict[tuple[str, str], list[str]] = {}
    for method, path in versions.items():
        logged = comparison.logged.get(path.resolve())
        texts = {"content": logged.high, "quality": logged.low} if logged else {}
        for level, text in texts.items():
            if text:
                users.setdefault((level, text), []).append(method)
    if users:
        yield "<dl>"
        for (level, text), methods in users.items():
            yield f"<dt>Prompt of the {level}: {escaped(', '.join(methods))}</dt><dd>{escaped(text)}</dd>"
        yield "</dl>"
