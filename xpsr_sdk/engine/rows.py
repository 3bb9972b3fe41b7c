"""The autoencoder a few rows at a time, with the statistics of the whole image: the same result in less memory.

Every layer runs over strips of rows, with the neighbouring rows that its kernel reads; group norms take mean and
variance from all strips first. Feature maps between layers lie in host memory. The middle block, whose attention sees
the whole image, runs at once: it works on latents.
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
        vae: Where it is no ``AutoencoderKL``, nothing is changed.
        rows: An even number; None: all of them at once.
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
    """What ``encoder(image)`` gives."""
    device = image.device
    x = by_rows(encoder.conv_in, [image], rows, device)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            x = _resnet(resnet, x, rows, device)
        for downsampler in block.downsamplers or ():
            # It pads below and to the right alone, so that strips stay aligned with an even halo.
            x = by_rows(downsampler, [x], rows, device, halo=2, scale=Fraction(1, 2))
    x = encoder.mid_block(x.to(device))
    return _head(encoder, x, rows, device).to(device)


def decode(decoder: Any, latents: Tensor, latent_embeds: None = None, rows: int = 64) -> Tensor:
    """What ``decoder(latents)`` gives."""
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
    """``layer(*maps)``, from strips.

    Args:
        layer: Computes a row of its result from ``halo`` rows above and below; beyond the map it pads by itself.
        maps: B C H W each.
        rows: Rows of the result at a time.
        device: Where it computes.
        halo: Rows of the maps, such that what the layer pads a strip with falls into those of the result that are cut.
        scale: Rows of the result a row of the maps.

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
    """``norm`` for strips of ``x``, B C H W, on ``device``, with the mean and variance of all of it."""
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
    weight, bias = (x.to(device, torch.float32) for x in (norm.weight, norm.bias))  # offloading brings in no others
    factor = weight * (variance + norm.eps).rsqrt().expand_as(each)[0].flatten(1)
    shift = bias - mean.expand_as(each)[0].flatten(1) * factor
    factor, shift = factor[..., None, None], shift[..., None, None]
    return lambda strip: strip.to(torch.float32, copy=True).mul_(factor).add_(shift).to(strip.dtype)
