"""Names that belong together, and names that do not."""

from __future__ import annotations

import pytest

from xpsr_sdk.data.matching import pair_names


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["0", "1"], ["0", "1"]),
        (["0_out", "1_out"], ["0", "1"]),
        (["0_upscayl_4x_realesrgan", "1_upscayl_4x_realesrgan"], ["0", "1"]),
        (["Canon_001_LR4", "Canon_002_LR4"], ["Canon_001_HR", "Canon_002_HR"]),
        (["img_001_SRF_4_LR"], ["img_001_SRF_4_HR"]),
        (["0001x4", "0002x4"], ["0001", "0002"]),
        (["a_x4", "b_x2"], ["a", "b"]),
        (["sub/x_out"], ["sub/x"]),
    ],
)
def test_names_that_belong_together(left: list[str], right: list[str]) -> None:
    assert pair_names(left, right) == dict(zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("left", "right"),
    [(["photo_1"], ["photo_2"]), (["0_out", "1"], ["0", "1"]), (["a_out", "b_out"], ["a"]), (["a/x"], ["b/x"])],
)
def test_names_that_do_not(left: list[str], right: list[str]) -> None:
    assert pair_names(left, right) is None
