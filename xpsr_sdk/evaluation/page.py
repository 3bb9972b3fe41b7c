"""A comparison as one HTML page, which needs no network. Names and texts are data: they are escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from xpsr_sdk import __version__
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.comparison import Comparison, heading
from xpsr_sdk.evaluation.intervals import Interval
from xpsr_sdk.evaluation.page_pictures import crops_section, extremes_section
from xpsr_sdk.evaluation.pictures import Pictures
from xpsr_sdk.evaluation.plots import trade_off
from xpsr_sdk.evaluation.report import crop_text, printed
from xpsr_sdk.evaluation.upscale_logs import seconds_a_megapixel
from xpsr_sdk.files.writing import write_whole

ASSETS = Path(__file__).parent / "page_assets"
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


def _page(comparison: Comparison, pictures: Pictures, crops: int) -> Iterator[str]:
    title = escape(" / ".join(comparison.methods))
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title><style>{style}</style></head><body><main>"
    yield f"<h1>{title}</h1>"
    yield f"<p>{_photos(comparison)} {escape(crop_text(comparison.crop))} xpsr_sdk {__version__}.</p>"
    yield from _means(comparison)
    yield from _differences(comparison)
    yield from _plot(comparison, pictures)
    yield from crops_section(comparison, pictures, crops)
    yield from extremes_section(comparison, pictures)
    yield from _figures(comparison)
    yield from _measured(comparison)
    yield f"</main><script>{script}</script></body></html>\n"


def _photos(comparison: Comparison) -> str:
    counts = {len(scores.rows) for scores in comparison.methods.values()}
    return f"{max(counts)} photos." if len(counts) == 1 else f"{min(counts)} to {max(counts)} photos a method."


def _means(comparison: Comparison) -> Iterator[str]:
    yield "<section><h2>Means</h2><p>With 95 % bootstrap intervals over the photos. The best is bold, where all "
    yield "methods have the same photos; otherwise the means cannot be compared, and the number of photos is given.</p>"
    rows = []
    for method in comparison.methods:
        cells = [f'<td class="name">{escape(method)}</td>']
        for chosen in comparison.metrics:
            best = ' class="best"' if comparison.best(chosen) == method else ""
            count = comparison.count_text(method, chosen)
            note = f"<br><small>{count}</small>" if count else ""
            cells.append(f"<td{best}>{_interval(comparison.mean(method, chosen))}{note}</td>")
        if comparison.logged:
            seconds = seconds_a_megapixel(comparison.matched.methods[method], comparison.logged)
            cells.append(f"<td>{printed(seconds)}</td>")
        rows.append(cells)
    time = ["seconds a megapixel"] if comparison.logged else []
    yield from _table(["method", *map(heading, comparison.metrics), *time], rows)
    yield "</section>"


def _differences(comparison: Comparison) -> Iterator[str]:
    metrics = [chosen for chosen in comparison.metrics if not chosen.of_folders]
    others = [method for method in comparison.methods if method != comparison.baseline]
    if not others or not metrics:
        return
    baseline = escape(comparison.baseline)
    yield f"<section><h2>Differences to {baseline}</h2><p>Means over the photos that both have, with 95 % bootstrap "
    yield f"intervals; below, on how many photos the method is better, and on how many {baseline} is.</p>"
    rows = []
    for method in others:
        cells = [f'<td class="name">{escape(method)}</td>']
        for chosen in metrics:
            found = comparison.difference(method, chosen)
            wins = f"{found.wins} : {found.losses}" + (f", {found.ties} equal" if found.ties else "")
            cells.append(f"<td>{_interval(found.interval, signed=True)}<br><small>{wins}</small></td>")
        rows.append(cells)
    yield from _table(["method", *map(heading, metrics)], rows)
    yield "</section>"


def _plot(comparison: Comparison, pictures: Pictures) -> Iterator[str]:
    drawn = trade_off(comparison)
    if drawn is not None:
        source = pictures.source(drawn, "svg", "image/svg+xml")
        alt = "Perception against distortion, a point for each method; the figures are in the table of means."
        yield "<section><h2>Perception and distortion</h2>"
        yield f'<img class="plot" src="{source}" alt="{alt}"></section>'


def _figures(comparison: Comparison) -> Iterator[str]:
    metrics = [chosen for chosen in comparison.metrics if not chosen.of_folders]
    yield "<section><h2>Every photo</h2>"
    rows = []
    for method, scores in comparison.methods.items():
        for row in scores.rows:
            cells = [f'<td class="name">{escape(row.name)}</td>', f'<td class="name">{escape(method)}</td>']
            for chosen in metrics:
                figure = row.scores.get(chosen.name, math.nan)
                value = str(figure).replace("inf", "1e999")
                cells.append(f'<td data-value="{value}">{printed(figure)}</td>')
            rows.append(cells)
    yield from _table(["photo", "method", *map(heading, metrics)], rows, sortable=True)
    yield "</section>"


def _measured(comparison: Comparison) -> Iterator[str]:
    yield "<section><h2>How it was measured</h2><ul>"
    for chosen in comparison.metrics:
        yield f"<li>{_how(chosen)}</li>"
    yield "</ul>"
    problems = comparison.problems()
    if problems:
        yield "<h3>Not measured</h3><ul>" + "".join(f"<li>{escape(problem)}</li>" for problem in problems) + "</ul>"
    yield "</section>"


def _how(chosen: ChosenMetric) -> str:
    better = "lower" if chosen.metric.lower_is_better else "higher"
    return f"<strong>{escape(chosen.name.upper())}</strong> ({better} is better): {escape(chosen.metric.details)}"


def _interval(interval: Interval, signed: bool = False) -> str:
    sign = "+" if signed and interval.mean > 0 else ""
    text = f"{sign}{printed(interval.mean)}"
    if interval.low < interval.high:
        text += f"<br><small>{printed(interval.low)} to {printed(interval.high)}</small>"
    return text


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], sortable: bool = False) -> Iterator[str]:
    """Heads are texts, cells are elements."""
    wrap = '<th scope="col"><button type="button">{}</button></th>' if sortable else '<th scope="col">{}</th>'
    yield '<div class="scroll" tabindex="0"><table><thead><tr>' + "".join(wrap.format(escape(head)) for head in heads)
    yield "</tr></thead><tbody>"
    for cells in rows:
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
