"""Pieces of HTML that the page of a comparison is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from xpsr_sdk.errors import visible


def escaped(text: str) -> str:
    """A name or text as HTML, for elements and attributes; what cannot be shown, in the form of Python's escapes."""
    return escape(visible(text, newline="\\n"))


def section(anchor: str, name: str, content: str) -> str:
    """A section with its heading."""
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escaped(name)}</h2>{content}</section>'


def table(
    label: str, names: Sequence[str], figures: Sequence[str], rows: Iterable[Sequence[str]], sortable: bool = False
) -> Iterator[str]:
    """A table that can be scrolled.

    Args:
        label: What it is a table of, for screen readers.
        names: Heads of the first columns, which hold names.
        figures: Heads of the other columns.
        rows: Their cells, as elements.
        sortable: Whether the heads are buttons that sort the table.
    """
    wrap = '<button type="button">{}</button>' if sortable else "{}"
    heads = [f'<th scope="col" class="name">{wrap.format(escaped(name))}</th>' for name in names]
    heads += [f'<th scope="col">{wrap.format(escaped(name))}</th>' for name in figures]
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="Table of {escaped(label)}"><table><thead><tr>'
    yield "".join(heads)
    yield "</tr></thead><tbody>"
    for cells in rows:
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
