"""Runs the autoencoder a few rows at a time, which gives the same result in less memory.

Every layer runs over strips of rows, together with the neighbouring rows that its kernel reads. Group norms first
compute mean and variance over all strips. Feature maps between layers lie in host memory. The middle block runs on the
whole image, because its attention reads all of it; it is small, since it works on latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn


@contextmanager
def autoencoder_in_rows(vae: Any, rows: int | None) -> Iterator[None]:
    """Within the block, ``vae`` computes ``rows`` rows of each feature map at a time.

    Args:
        vae: The autoencoder. Nothing changes if it is not an ``AutoencoderKL``.
        rows: An even number. None: all rows at once.
    """
    if rows is None or not isinstance(vae, AutoencoderKL):
        yield
        return
    with ExitStack() as stack:
        for part, run in ((vae.encoder, encode), (vae.decoder, decode)):
            part.forward = partial(run, part, rows=rows)
            stack.callback(part.__delattr__, "forward")
        yield


def encode(encoder: Any, image: Tensor, rows: int) -> Tensor:
    """Compute ``encoder(image)`` in strips."""
    device = image.device
    x = by_rows(encoder.conv_in, [image], rows, device)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x, rows, device)
        for downsampler in block.downsamplers or ():
            # It pads only below and to the right. An even halo keeps strips aligned.
            x = by_rows(downsampler, [x], rows, device, halo=2, scale=Fraction(1, 2))
    x = encoder.mid_block(x.to(device))
    return _head(encoder, x, rows, device).to(device)


def decode(decoder: Any, latents: Tensor, latent_embeds: None = None, rows: int = 64) -> Tensor:
    """Compute ``decoder(latents)`` in strips."""
    device = latents.device
    x = decoder.mid_block(decoder.conv_in(latents))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x, rows, device)
        for upsampler in block.upsamplers or ():
            x = by_rows(upsampler, [x], rows, device, scale=Fraction(2))
    return _head(decoder, x, rows, device).to(device)


def _resnet(resnet: Any, x: Tensor, rows: int, device: torch.device) -> Tensor:
    normalise = group_norm(resnet.norm1, x, rows, device)
    h = by_rows(lambda x: resnet.conv1(resnet.nonlinearity(normalise(x))), [x], rows, device)
    normalise_again = group_norm(resnet.norm2, h, rows, device)

    def second_half(x: Tensor, h: Tensor) -> Tensor:
        shortcut = x if resnet.conv_shortcut is None else resnet.conv_shortcut(x)
        return (shortcut + resnet.conv2(resnet.nonlinearity(normalise_again(h)))) / resnet.output_scale_factor

    return by_rows(second_half, [x, h], rows, device)


def _head(coder: Any, x: Tensor, rows: int, device: torch.device) -> Tensor:
    normalise = group_norm(coder.conv_norm_out, x, rows, device)
    return by_rows(lambda x: coder.conv_out(coder.conv_act(normalise(x))), [x], rows, device)


def by_rows(
    layer: Callable[..., Tensor],
    maps: Sequence[Tensor],
    rows: int,
    device: torch.device,
    halo: int = 1,
    scale: Fraction = Fraction(1),
) -> Tensor:
    """Compute ``layer(*maps)`` in strips.

    Args:
        layer: The layer. A row of its result depends on at most ``halo`` rows of the maps above and below.
        maps: Its inputs, B C H W each.
        rows: Rows of the result to compute at a time.
        device: Where to compute.
        halo: Extra rows of the maps above and below a strip. The rows of the result that belong to them are cut off,
            and with them the effect of the layer's padding.
        scale: Rows of the result per row of the maps.

    Returns:
        B C scale*H scale*W, in host memory.
    """
    height = maps[0].shape[-2]
    step = max(int(rows / scale), 2)
    strips: Tensor | None = None
    for top in range(0, height, step):
        bottom = min(top + step, height)
        first, last = max(top - halo, 0), min(bottom + halo, height)
        strip = layer(*(x[..., first:last, :].to(device) for x in maps))
        strip = strip[..., int((top - first) * scale) : int((bottom - first) * scale), :]
        if strips is None:
            shape = (*strip.shape[:2], int(height * scale), strip.shape[-1])
            layout = torch.channels_last if strip.stride(1) < strip.stride(3) else torch.contiguous_format
            strips = torch.empty(shape, dtype=strip.dtype, memory_format=layout)
        strips[..., int(top * scale) : int(bottom * scale), :] = strip
    assert strips is not None, "a map has at least one row"
    return strips


def group_norm(norm: nn.GroupNorm, x: Tensor, rows: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """``norm`` for strips of ``x``, B C H W, on ``device``. It uses the mean and variance of the whole of ``x``."""
    sizes, means, variances = [], [], []
    for top in range(0, x.shape[-2], rows):
        strip = x[..., top : top + rows, :].to(device, torch.float32)
        mean = strip.mean((2, 3), keepdim=True)  # of each channel: torch.var_mean takes five times as long
        sizes.append(strip.shape[2])
        means.append(mean[..., 0, 0])
        variances.append((strip - mean).square_().mean((2, 3)))
    channels = norm.num_channels // norm.num_groups
    share = torch.tensor(sizes, device=device)[:, None, None, None] / (x.shape[-2] * channels)
    each, variance = (torch.stack(parts).unflatten(-1, (norm.num_groups, channels)) for parts in (means, variances))
    mean = (share * each).sum((0, 3), keepdim=True)
    variance = (share * (variance + (each - mean) ** 2)).sum((0, 3), keepdim=True)
    # The norm's forward is not called, so offloading does not move its weights.
    weight, bias = (x.to(device, torch.float32) for x in (norm.weight, norm.bias))
    factor = weight * (variance + norm.eps).rsqrt().expand_as(each)[0].flatten(1)
    shift = bias - mean.expand_as(each)[0].flatten(1) * factor
    factor, shift = factor[..., None, None], shift[..., None, None]
    return lambda strip: strip.to(torch.float32, copy=True).mul_(factor).add_(shift).to(strip.dtype)
