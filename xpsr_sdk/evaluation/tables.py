"""Tables of comparisons for papers and programs: CSV, Markdown, LaTeX."""

from __future__ import annotations

import csv
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from xpsr_sdk.errors import ConfigError
from xpsr_sdk.evaluation.comparison import Comparison, heading
from xpsr_sdk.evaluation.report import printed

LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\n": " ", "\r": " "}
)
MARKDOWN = str.maketrans({"|": r"\|", "\n": " ", "\r": " ", "<": "&lt;"})


def csv_table(comparison: Comparison) -> str:
    """A line for each photo of each method, with the figures in full."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    names = [chosen.name for chosen in comparison.metrics]
    lines.writerow(["method", "photo", *names])
    for method, scores in comparison.methods.items():
        for row in scores.rows:
            lines.writerow([method, row.name, *(repr(row.scores[n]) if n in row.scores else "" for n in names)])
        if scores.whole:
            lines.writerow([method, "(all)", *(repr(scores.whole[n]) if n in scores.whole else "" for n in names)])
    return text.getvalue()


def markdown_table(comparison: Comparison) -> str:
    """A line for each method with its means, the best in bold."""
    lines = ["| method | " + " | ".join(map(heading, comparison.metrics)) + " |"]
    lines.append("|---" * (1 + len(comparison.metrics)) + "|")
    for method in comparison.methods:
        cells = _cells(comparison, method, "**{}**".format)
        lines.append("| " + " | ".join([method.translate(MARKDOWN), *cells]) + " |")
    return "\n".join(lines) + "\n"


def latex_table(comparison: Comparison) -> str:
    """A ``tabular`` (it needs the package booktabs) with the means of each method, the best in bold."""
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    heads = [heading(chosen).translate(LATEX) for chosen in comparison.metrics]
    for arrow, command in arrows.items():
        heads = [head.replace(arrow, command) for head in heads]
    lines = [rf"\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule", " & ".join(["Method", *heads]) + r" \\"]
    lines.append(r"\midrule")
    for method in comparison.methods:
        cells = _cells(comparison, method, r"\textbf{{{}}}".format)
        lines.append(" & ".join([method.translate(LATEX), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


TABLES: dict[str, Callable[[Comparison], str]] = {".csv": csv_table, ".md": markdown_table, ".tex": latex_table}


def table_text(comparison: Comparison, file: Path) -> str:
    """The table in the form that the suffix of a file names.

    Raises:
        ConfigError: There is no such form.
    """
    check_table_file(file)
    return TABLES[file.suffix.lower()](comparison)


def check_table_file(file: Path) -> None:
    """Raise ConfigError unless the suffix of a file names a form of tables."""
    if file.suffix.lower() not in TABLES:
        raise ConfigError(f"{file}: a table is written as {', '.join(TABLES)}.")


def _cells(comparison: Comparison, method: str, emphasized: Callable[[str], str]) -> list[str]:
    cells = []
    for chosen in comparison.metrics:
        figure = printed(comparison.mean(method, chosen).mean, comparison.places(chosen))
        cell = emphasized(figure) if comparison.best(chosen) == method else figure
        cells.append(f"{cell} {comparison.count_text(method, chosen)}".rstrip())
    return cells
