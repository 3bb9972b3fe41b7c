"""Models and photos that are small enough for tests: those of the conformance kit, and reference data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from xpsr_sdk import PipelineConfig
from xpsr_sdk.testing.tiny import CONDITIONING_WIDTHS as CONDITIONING_WIDTHS
from xpsr_sdk.testing.tiny import DEFAULTS as DEFAULTS
from xpsr_sdk.testing.tiny import UNET as UNET
from xpsr_sdk.testing.tiny import XL as XL
from xpsr_sdk.testing.tiny import networks as networks
from xpsr_sdk.testing.tiny import photo as photo
from xpsr_sdk.testing.tiny import shake as shake
from xpsr_sdk.testing.tiny import write_configs as write_configs
from xpsr_sdk.testing.tiny import write_json as write_json
from xpsr_sdk.testing.tiny import write_stable_diffusion_xl as write_stable_diffusion_xl
from xpsr_sdk.testing.tiny import write_whole_model as write_whole_model

NANO_BASE = Path("examples/train_nano/base")
SD_TINY = Path("tests/fixtures/ref-sd15-tiny")
PHOTO = photo(17, 20)


def same(a: Image.Image, b: Image.Image) -> bool:
    """Whether two images have the same pixels."""
    return np.array_equal(np.asarray(a), np.asarray(b))


def alike(a: Image.Image, b: Image.Image) -> bool:
    """As ``same``, but for rounding: diffusers' own loading leaves weights as they lie in the file."""
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) <= 1


def sd_config() -> PipelineConfig:
    """Of a pipeline of Stable Diffusion's architecture."""
    return PipelineConfig(model=str(SD_TINY / "base"), checkpoint=SD_TINY / "xpsr", device="cpu", dtype="float32")
