"""Removes the grid that a network leaves where its latents meet: what repeats at each latent, which the eye sees."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

WINDOW = 33
"""Over so many latents, in a row, what repeats is averaged."""
LIMIT = 3 / 255
"""The strongest pattern that is looked for, in an image in [-1, 1]. Edges are stronger, and are no grid."""


def without_grid(image: Tensor, stride: int) -> Tensor:
    """The image, B C H W in [-1, 1], without faint patterns that repeat every ``stride`` pixels in rows and columns.

    ``stride`` must be even and divide H and W.
    """
    rows = image - _repeated_in_rows(image, stride)
    return rows - _repeated_in_rows(rows.mT, stride).mT


def _repeated_in_rows(image: Tensor, stride: int) -> Tensor:
    rows = image.float().flatten(0, 2)  # B*C*H W
    padded = pad(rows[:, None], (stride // 2, stride // 2), mode="reflect")
    # The mean over one period, centred on each pixel, holds nothing that repeats at each period.
    means = avg_pool1d(padded, stride, stride=1).squeeze(1)
    detail = (rows - (means[:, :-1] + means[:, 1:]) / 2).clamp(-LIMIT, LIMIT)
    places = detail.view(len(rows), -1, stride).mT.contiguous()  # a row for each place in the period
    repeated = avg_pool1d(places, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)
    pattern = repeated - repeated.mean(1, keepdim=True)
    return pattern.mT.reshape(image.shape).to(image.dtype)
