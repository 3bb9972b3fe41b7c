"""A picture of many images, each with text below it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from PIL import Image, ImageDraw, ImageFont

SIDE = 240
"""Of the square that each image is shrunk or enlarged to, pixels."""
GAP = 12
PARTS, LINES = 3, 4
"""Of text below an image: parts, and lines that are shown of each."""
FONT_SIZE = 13
FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "DejaVuSans.ttf", "arial.ttf")
"""Fonts that are looked for on the system, those for the most scripts first; Pillow's own font has only ASCII."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(entries: Sequence[tuple[Image.Image, str]], columns: int = 4) -> Image.Image:
    """The images in rows, equally large, each with up to three lines of text, wrapped and cut if they are long; RGB."""
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
        sheet.paste(fitted, (left, top + SIDE - fitted.height))  # so that image and text are close to each other
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
    """The image with its longer side as long as the square's."""
    scale = SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2)


def _shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], "..."]


def _wrapped(text: str, font: Font) -> list[str]:
    """The text in lines that are no wider than the square; a word that is wider itself is broken."""
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
