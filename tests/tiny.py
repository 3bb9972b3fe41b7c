"""Models and photos that are small enough for tests: those of the conformance kit, and reference data."""

from __future__ import annotations

from pathlib import Path

from xpsr_sdk.testing.tiny import CONDITIONING_WIDTHS as CONDITIONING_WIDTHS
from xpsr_sdk.testing.tiny import DEFAULTS as DEFAULTS
from xpsr_sdk.testing.tiny import UNET as UNET
from xpsr_sdk.testing.tiny import networks as networks
from xpsr_sdk.testing.tiny import photo as photo
from xpsr_sdk.testing.tiny import shake as shake
from xpsr_sdk.testing.tiny import write_configs as write_configs
from xpsr_sdk.testing.tiny import write_json as write_json
from xpsr_sdk.testing.tiny import write_whole_model as write_whole_model

NANO_BASE = Path("examples/train_nano/base")
SD_TINY = Path("tests/data/ref-sd15-tiny")
