"""A picture of many images, each with text below it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIDE = 240
"""Of a thumbnail, pixels."""
GAP = 12
LINES = 9
"""Of text below a thumbnail."""
FONT_SIZE = 13


def contact_sheet(entries: Sequence[tuple[Image.Image, str]], columns: int = 4) -> Image.Image:
    """The images in rows, each with its text, of which the first lines are shown; mode RGB."""
    font = ImageFont.load_default(FONT_SIZE)
    line_height = round(FONT_SIZE * 1.3)
    width, height = SIDE + GAP, SIDE + LINES * line_height + 2 * GAP
    columns = min(columns, len(entries)) or 1
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, text) in enumerate(entries):
        left, top = GAP + index % columns * width, GAP + index // columns * height
        thumbnail = image.copy()
        thumbnail.thumbnail((SIDE, SIDE))
        sheet.paste(thumbnail, (left, top))
        lines = [line for part in text.splitlines() for line in _wrapped(part, font)]
        shown = lines if len(lines) <= LINES else [*lines[: LINES - 1], "..."]
        for number, line in enumerate(shown):
            draw.text((left, top + SIDE + 4 + number * line_height), line, fill="black", font=font)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The text in lines that are no wider than a thumbnail."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > SIDE:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
