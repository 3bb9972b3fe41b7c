"""A comparison as one HTML page, which needs no network. Names and texts are data: they are escaped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from xpsr_sdk import __version__
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.comparison import Comparison, heading
from xpsr_sdk.evaluation.intervals import Interval
from xpsr_sdk.evaluation.page_parts import escaped, section, table
from xpsr_sdk.evaluation.page_pictures import crops, extremes, prompts
from xpsr_sdk.evaluation.pictures import Pictures
from xpsr_sdk.evaluation.plots import trade_off
from xpsr_sdk.evaluation.report import crop_text, printed
from xpsr_sdk.evaluation.upscale_logs import costs
from xpsr_sdk.files.writing import write_whole

ASSETS = Path(__file__).parent / "page_assets"
COSTS = {"seconds": "seconds per megapixel ↓", "memory": "peak memory in GiB ↓"}
"""What logs may tell of a method, by the attribute of its ``Costs``."""
CROPS = 8
"""Photos of which a crop is shown."""


def write_page(comparison: Comparison, file: Path, *, crops: int = CROPS, image_folder: bool = False) -> None:
    """Write the report of a comparison.

    Args:
        comparison: The figures.
        file: The page.
        crops: Of how many photos a crop is shown, those in which the methods differ most.
        image_folder: Whether pictures go to a folder beside the page, ``NAME-images``, instead of into it.

    Raises:
        ImageError: The file cannot be written.
    """
    pictures = Pictures(file.with_name(f"{file.stem}-images") if image_folder else None)
    content = "".join(_page(comparison, pictures, crops)).encode("utf-8", "replace")
    write_whole(file, lambda out: out.write(content))


def _page(comparison: Comparison, pictures: Pictures, count: int) -> Iterator[str]:
    title = escaped(", ".join(comparison.methods))
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    contents = {
        "Means": _means(comparison),
        f"Differences from {comparison.baseline}": _differences(comparison),
        "Perception and distortion": _plot(comparison, pictures),
        "Where they differ most": crops(comparison, pictures, count),
        "Best and worst photos": extremes(comparison, pictures),
        "Prompts": prompts(comparison),
        "Every photo": _figures(comparison),
        "How it was measured": _measured(comparison),
    }
    sections = {name: text for name, parts in contents.items() if (text := "".join(parts))}
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title><style>{style}</style></head><body><main>"
    yield f"<h1>{title}</h1>"
    whole = crop_text(chosen.details for chosen in comparison.metrics)
    yield f'<p class="note">{_photos(comparison)} {whole} xpsr_sdk {__version__}.</p>'
    links = "".join(f'<li><a href="#s{i}">{escaped(name)}</a></li>' for i, name in enumerate(sections))
    yield f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
    for i, (name, text) in enumerate(sections.items()):
        yield section(f"s{i}", name, text)
    yield f"</main><script>{script}</script></body></html>\n"


def _photos(comparison: Comparison) -> str:
    counts = {len(scores.rows) for scores in comparison.methods.values()}
    many = f"{max(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"{many} photo{'' if many == '1' else 's'} of each method."


def _means(comparison: Comparison) -> Iterator[str]:
    yield "<p>Means over the photos, with 95 % bootstrap intervals. ↑: higher is better; ↓: lower is better. "
    yield "The best mean is bold if all methods have the same photos. Otherwise the means cannot be compared, and the "
    yield "number of photos is given.</p>"
    logged = {method: costs(comparison.matched.methods[method], comparison.logged) for method in comparison.methods}
    costs_told = [
        column for column in COSTS if any(getattr(found, column, None) is not None for found in logged.values())
    ]
    heads = [*map(heading, comparison.metrics), *(COSTS[column] for column in costs_told)]
    rows = []
    for method in comparison.methods:
        cells = [f'<th scope="row" class="name">{escaped(method)}</th>']
        for chosen in comparison.metrics:
            best = ' class="best"' if comparison.best(chosen) == method else ""
            count = comparison.count_text(method, chosen)
            note = f"<br><small>{count}</small>" if count else ""
            interval = _interval(comparison.mean(method, chosen), comparison.places(chosen))
            cells.append(f"<td{best}>{interval}{note}</td>")
        cells += [f"<td>{printed(getattr(logged[method], column, None), 2)}</td>" for column in costs_told]
        rows.append(cells)
    yield from table("means", ["method"], heads, rows)


def _differences(comparison: Comparison) -> Iterator[str]:
    metrics = [chosen for chosen in comparison.metrics if not chosen.of_folders]
    others = [method for method in comparison.methods if method != comparison.baseline]
    if not others or not metrics:
        return
    baseline = escaped(comparison.baseline)
    yield f"<p>The mean of a method minus that of {baseline}, over the photos that both have, with 95 % bootstrap "
    yield "intervals. Below it, on how many photos the method is better, and on how many it is worse.</p>"
    rows = []
    for method in others:
        cells = [f'<th scope="row" class="name">{escaped(method)}</th>']
        for chosen in metrics:
            found = comparison.difference(method, chosen)
            wins = f"{found.wins} better, {found.losses} worse" + (f", {found.ties} equal" if found.ties else "")
            interval = _interval(found.interval, comparison.places(chosen), signed=True)
            cells.append(f"<td>{interval}<br><small>{wins}</small></td>")
        rows.append(cells)
    yield from table("differences", ["method"], [*map(heading, metrics)], rows)


def _plot(comparison: Comparison, pictures: Pictures) -> Iterator[str]:
    drawn = trade_off(comparison)
    if drawn is not None:
        source = pictures.source(drawn, "svg", "image/svg+xml")
        alt = "Perception against distortion, a point for each method; the figures are in the table of means."
        yield f'<img class="plot" src="{source}" alt="{alt}">'


def _figures(comparison: Comparison) -> Iterator[str]:
    metrics = [chosen for chosen in comparison.metrics if not chosen.of_folders]
    if not metrics:
        return
    rows = []
    for method, scores in comparison.methods.items():
        for row in scores.rows:
            cells = [f'<th scope="row" class="name">{escaped(row.name)}</th>']
            cells.append(f'<td class="name">{escaped(method)}</td>')
            for chosen in metrics:
                figure = row.scores.get(chosen.name, math.nan)
                value = str(figure).replace("inf", "1e999")
                cells.append(f'<td data-value="{value}">{printed(figure, comparison.places(chosen))}</td>')
            rows.append(cells)
    yield '<p class="handling">The buttons in the head of the table sort it.</p>'
    yield from table("all photos", ["photo", "method"], [*map(heading, metrics)], rows, sortable=True)


def _measured(comparison: Comparison) -> Iterator[str]:
    yield "<ul>"
    for chosen in comparison.metrics:
        yield f"<li>{_how(chosen)}</li>"
    yield "</ul>"
    problems = comparison.problems()
    if problems:
        yield "<h3>Not measured</h3><ul>" + "".join(f"<li>{escaped(problem)}</li>" for problem in problems) + "</ul>"


def _how(chosen: ChosenMetric) -> str:
    better = "lower" if chosen.metric.lower_is_better else "higher"
    terms = f'<br><span class="note">License: {escaped(chosen.license)}</span>' if chosen.license else ""
    return f"<strong>{escaped(chosen.name.upper())}</strong> ({better} is better): {escaped(chosen.details)}{terms}"


def _interval(interval: Interval, places: int, signed: bool = False) -> str:
    text = printed(interval.mean, places, signed)
    if interval.low < interval.high:
        low, high = (printed(end, places, signed) for end in (interval.low, interval.high))
        text += f"<br><small>{low} to {high}</small>"
    return text
