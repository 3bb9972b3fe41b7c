"""Draws a contact sheet: many images in one picture, each with text below it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from PIL import Image, ImageDraw, ImageFont

SIDE = 240
"""Side of the square that each image is resized to fit, in pixels."""
GAP = 12
PARTS, LINES = 3, 4
"""The number of texts below an image, and the number of lines that are shown of each."""
FONT_SIZE = 13
FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "DejaVuSans.ttf", "arial.ttf")
"""Fonts to look for on the system, in order of how many scripts they cover. Pillow's own font has only ASCII."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(entries: Sequence[tuple[Image.Image, str]], columns: int = 4) -> Image.Image:
    """Draw images in rows, all of the same size, each with up to three texts below. Long texts are wrapped and cut."""
    font = _font()
    line_height = round(FONT_SIZE * 1.3)
    width, height = SIDE + GAP, SIDE + PARTS * LINES * line_height + 2 * GAP
    columns = min(columns, len(entries)) or 1
    rows = -(-len(entries) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, text) in enumerate(entries):
        left, top = GAP + index % columns * width, GAP + index // columns * height
        fitted = _fitted(image)
        sheet.paste(fitted, (left, top + SIDE - fitted.height))  # at the bottom, close to the text
        lines = [line for part in text.splitlines()[:PARTS] for line in _shortened(_wrapped(part, font))]
        for number, line in enumerate(lines):
            draw.text((left, top + SIDE + 4 + number * line_height), line, fill="black", font=font)
    return sheet


def _font() -> Font:
    for name in FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, FONT_SIZE)
    return ImageFont.load_default(FONT_SIZE)


def _fitted(image: Image.Image) -> Image.Image:
    """The image, resized so that its longer side is that of the square."""
    scale = SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2)


def _shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], "..."]


def _wrapped(text: str, font: Font) -> list[str]:
    """The text in lines that are not wider than the square. A longer word is broken."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= SIDE:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > SIDE:
                lines.append("")
            lines[-1] += letter
    return lines
