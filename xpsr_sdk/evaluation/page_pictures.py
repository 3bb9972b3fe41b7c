"""The pictures of a report: crops where methods differ most, and the best and worst photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from xpsr_sdk.data.images import read_image
from xpsr_sdk.errors import XPSRError
from xpsr_sdk.evaluation.comparison import Comparison, heading
from xpsr_sdk.evaluation.crops import Crop, crops_that_differ, cut
from xpsr_sdk.evaluation.pictures import Pictures
from xpsr_sdk.evaluation.report import printed

EXTREMES, THUMBNAIL = 3, 160
"""How many of the best and worst photos are shown, and how large."""


def crops_section(comparison: Comparison, pictures: Pictures, count: int) -> Iterator[str]:
    """Where the methods differ most, with a slider for each place."""
    matched = comparison.matched
    found = crops_that_differ(matched.methods, matched.references, count)
    if not found:
        return
    yield "<section><h2>Where they differ most</h2><p>The slider shows one version on its left and another one on its "
    yield "right.</p>"
    for crop in found:
        yield from _crop(comparison, crop, pictures)
    yield "</section>"


def _crop(comparison: Comparison, crop: Crop, pictures: Pictures) -> Iterator[str]:
    matched, photo = comparison.matched, crop.photo
    versions = {method: files[photo] for method, files in matched.methods.items() if photo in files}
    size = read_image(next(iter(versions.values()))).image.size
    around = {"input": matched.inputs.get(photo), "reference": matched.references.get(photo)}
    shown = {"input": around["input"], **versions, "reference": around["reference"]}
    names = [name for name, path in shown.items() if path is not None]
    place = f"{crop.box[2] - crop.box[0]} x {crop.box[3] - crop.box[1]} pixels at {crop.box[0]}, {crop.box[1]}"
    yield f"<section><h3>{escape(photo)}</h3><p>{place}; mean difference {crop.difference:.1f} of 255 levels.</p>"
    yield '<div class="crops">'
    for name in names:
        path = shown[name]
        assert path is not None
        try:
            source = pictures.photo(cut(path, crop.box, size))
        except XPSRError:
            source = ""
        yield f'<figure><img src="{source}" alt="{escape(photo)}, {escape(name)}">'
        yield f"<figcaption>{escape(name)}</figcaption></figure>"
    yield "</div>"
    yield from _prompts(comparison, versions)
    yield from _slider(photo, names)
    yield "</section>"


def _prompts(comparison: Comparison, versions: Mapping[str, Path]) -> Iterator[str]:
    """The prompts of a photo's versions, as far as logs tell them."""
    for method, path in versions.items():
        logged = comparison.logged.get(path.resolve())
        prompts = {"content": logged.high, "quality": logged.low} if logged else {}
        for level, prompt in prompts.items():
            if prompt:
                yield f"<p>{escape(method)}, prompt of the {level}: {escape(prompt)}</p>"


def _slider(photo: str, names: Sequence[str]) -> Iterator[str]:
    def options(chosen: int) -> str:
        return "".join(
            f'<option value="{i}"{" selected" if i == chosen else ""}>{escape(name)}</option>'
            for i, name in enumerate(names)
        )

    yield '<div class="slider" hidden><div class="stack"><img alt=""><img class="over" alt=""></div>'
    label = f"How much of {escape(photo)} is the left version"
    yield f'<input type="range" min="0" max="100" value="50" aria-label="{label}">'
    yield f"<br><label>Left <select>{options(0)}</select></label>"
    yield f"<label>Right <select>{options(1)}</select></label></div>"


def extremes_section(comparison: Comparison, pictures: Pictures) -> Iterator[str]:
    """The best and the worst photos of the first method, by each metric."""
    method = comparison.baseline
    scores, files = comparison.methods[method], comparison.matched.methods[method]
    sources: dict[str, str] = {}
    yield f"<section><h2>Best and worst photos of {escape(method)}</h2>"
    for chosen in comparison.metrics:
        values = scores.values(chosen.name)
        order = sorted(values, key=lambda name: values[name], reverse=not chosen.metric.lower_is_better)
        if len(order) < 2:
            continue
        many = min(EXTREMES, len(order) // 2)
        yield f'<h3>{escape(heading(chosen))}</h3><div class="photos">'
        for word, names in (("best", order[:many]), ("worst", order[-many:])):
            for name in names:
                if name not in sources:
                    sources[name] = pictures.photo(_thumbnail(files[name]))
                caption = f"{word}: {escape(name)}, {printed(values[name])}"
                yield f'<figure><img src="{sources[name]}" alt="{escape(name)}">'
                yield f"<figcaption>{caption}</figcaption></figure>"
        yield "</div>"
    yield "</section>"


def _thumbnail(path: Path) -> Image.Image:
    try:
        image = read_image(path).image
    except XPSRError:  # measured in an earlier run
        return Image.new("RGB", (THUMBNAIL, THUMBNAIL), "gray")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
