"""The picture of images with their texts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from xpsr_sdk.prompts.contact_sheet import GAP, SIDE, contact_sheet

RED = (255, 0, 0)


def red(sheet: Image.Image) -> int:
    """How many pixels are red."""
    return int((np.asarray(sheet) == RED).all(-1).sum())


@pytest.mark.parametrize(
    ("size", "shown"),
    [((32, 32), (SIDE, SIDE)), ((1000, 500), (SIDE, SIDE // 2)), ((1, 1), (SIDE, SIDE)), ((2, 3000), (1, SIDE))],
)
def test_small_and_large_images_are_equally_large(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert red(contact_sheet([(Image.new("RGB", size, RED), "a house")])) == shown[0] * shown[1]


@pytest.mark.parametrize(("count", "columns"), [(0, 1), (1, 1), (3, 3), (40, 4)])
def test_as_many_columns_as_there_are_images_up_to_four(count: int, columns: int) -> None:
    sheet = contact_sheet([(Image.new("RGB", (8, 8), RED), "a house")] * count)
    assert red(sheet) == count * SIDE**2
    assert sheet.width == (columns * (SIDE + GAP) + GAP if count else SIDE + 2 * GAP)


@pytest.mark.parametrize(
    "text", ["x" * 300, "word " * 300, "\u5bb6" * 300, "name\nhigh: " + "word " * 300 + "\nlow: blur"]
)
def test_text_stays_below_its_image(text: str) -> None:
    image = Image.new("RGB", (8, 8), "white")
    sheet = np.asarray(contact_sheet([(image, text), (image, "")]).convert("L"))
    assert sheet[:, GAP : GAP + SIDE].min() < 100
    assert (sheet[:, GAP + SIDE + 2 :] == 255).all()
    assert (sheet[-GAP:] == 255).all()


def test_a_long_part_leaves_room_for_the_next() -> None:
    image = Image.new("RGB", (8, 8), "white")
    with_low, without = (contact_sheet([(image, "a.png\nhigh: " + "word " * 300 + low)]) for low in ("\nlow: blur", ""))
    assert with_low.tobytes() != without.tobytes()
