"""Noise of a camera's sensor, as it looks after the camera has developed the picture.

A developed picture is taken back to raw sensor values, gets photon and read-out noise there, and is developed again.
The steps back and forth, the gains and the noise model are those of Brooks et al., "Unprocessing Images for Learned Raw
Denoising", arXiv 1811.11127, on which BSRGAN (arXiv 2103.14006, section 3.3) builds; the mosaic is the Bayer
pattern RGGB, interpolated bilinearly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xpsr_sdk.toolkit import Dice

SRGB_TO_XYZ = torch.tensor([
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip
"""IEC 61966-2-1."""
XYZ_TO_CAMERAS = torch.tensor([
    [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
    [[0.4913, -0.0541, -0.0202], [-0.6130, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
    [[0.8380, -0.2630, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
    [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.0970, 0.1581, 0.5181]],
])  # fmt: skip
"""Colour matrices of four cameras, from their makers' DNG profiles (the cameras of arXiv 1811.11127)."""
GREEN = (slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))
RED, BLUE = (slice(0, None, 2), slice(0, None, 2)), (slice(1, None, 2), slice(1, None, 2))


@dataclass(frozen=True)
class SensorNoise:
    """A camera and its noise.

    Attributes:
        cameras: Weights of the four colour matrices; they sum to 1.
        brightness: Digital gain of all channels.
        red: White balance gain of red.
        blue: White balance gain of blue.
        shot: Variance of the photon noise, per unit of signal in [0, 1].
        read: Variance of the read-out noise.
    """

    cameras: tuple[float, ...]
    brightness: float
    red: float
    blue: float
    shot: float
    read: float

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """3 H W in [0, 1], with the noise of this camera."""
        raw = self._mosaic(self._undevelop(image))
        noise = torch.randn(raw.shape, generator=generator)
        raw = raw + noise * (raw * self.shot + self.read).sqrt()
        return self._develop(_demosaic(raw.clamp(0, 1)))[:, : image.shape[-2], : image.shape[-1]]

    def _undevelop(self, image: Tensor) -> Tensor:
        """Linear sensor values in [0, 1] of a picture: without tone curve, gamma, colour matrix and gains."""
        image = 0.5 - torch.sin(torch.asin(1 - 2 * image.clamp(0, 1)) / 3)  # undoes 3 x^2 - 2 x^3
        linear = image.clamp(min=1e-8) ** 2.2
        return (_mix(self._from_srgb(), linear) / self._gains()).clamp(0, 1)

    def _develop(self, sensor: Tensor) -> Tensor:
        """A picture of sensor values."""
        linear = _mix(torch.linalg.inv(self._from_srgb()), (sensor * self._gains()).clamp(0, 1))
        gamma = linear.clamp(1e-8, 1) ** (1 / 2.2)
        return (3 * gamma**2 - 2 * gamma**3).clamp(0, 1)

    def _from_srgb(self) -> Tensor:
        """The matrix from linear sRGB to the camera's colours; white stays white."""
        camera = torch.tensordot(torch.tensor(self.cameras), XYZ_TO_CAMERAS, dims=1) @ SRGB_TO_XYZ
        return camera / camera.sum(-1, keepdim=True)

    def _gains(self) -> Tensor:
        return self.brightness * torch.tensor([self.red, 1.0, self.blue]).reshape(3, 1, 1)

    def _mosaic(self, sensor: Tensor) -> Tensor:
        """The one colour of each pixel, H W, with even sides."""
        sensor = F.pad(sensor, (0, sensor.shape[-1] % 2, 0, sensor.shape[-2] % 2), mode="replicate")
        raw = sensor[1].clone()
        raw[RED], raw[BLUE] = sensor[0][RED], sensor[2][BLUE]
        return raw


def draw_sensor_noise(dice: Dice) -> SensorNoise:
    """A camera and its noise, in the distributions of arXiv 1811.11127."""
    weights = [dice.uniform((0, 1)) + 1e-6 for _ in range(len(XYZ_TO_CAMERAS))]
    log_shot = dice.uniform((math.log(1e-4), math.log(0.012)))
    log_read = 2.18 * log_shot + 1.20 + dice.normal(0.26)
    return SensorNoise(
        cameras=tuple(weight / sum(weights) for weight in weights),
        brightness=1 / (0.8 + dice.normal(0.1)),
        red=dice.uniform((1.9, 2.4)),
        blue=dice.uniform((1.5, 1.9)),
        shot=math.exp(log_shot),
        read=math.exp(log_read),
    )


def _mix(matrix: Tensor, image: Tensor) -> Tensor:
    return torch.einsum("ij,jhw->ihw", matrix, image)


def _demosaic(raw: Tensor) -> Tensor:
    """3 H W of a mosaic, H W: each colour is the mean of its neighbours where it was not measured."""
    colors = torch.zeros(3, *raw.shape)
    measured = torch.zeros(3, *raw.shape)
    for channel, places in enumerate(((RED,), GREEN, (BLUE,))):
        for place in places:
            colors[channel][place] = raw[place]
            measured[channel][place] = 1
    tent = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])[None, None]
    # A normalised convolution: at the borders, too, only what was measured counts.
    total, count = (F.conv2d(part[:, None], tent, padding=1)[:, 0] for part in (colors, measured))
    return torch.where(measured.bool(), colors, total / count)
