"""Building blocks for plug-ins. The contracts are in ``xpsr_sdk``, and the conformance checks in ``xpsr_sdk.testing``.

The built-in parts use the same building blocks: degradations and blur kernels, a sampler for any scheduler of
diffusers, a Stable Diffusion to derive a backbone from, layers for a fusion, conversion between images and tensors,
parts that use other parts, and texts for error messages. Importing this module loads nothing: each name is imported
when it is first used.

>>> from xpsr_sdk.toolkit import Dice
"""

from typing import TYPE_CHECKING

from xpsr_sdk.lazy import homes_of, lazy_names

if TYPE_CHECKING:
    from xpsr_sdk.builtin import kernels
    from xpsr_sdk.builtin.degradation_options import (
        Probability,
        QualityRange,
        SizeRange,
        Weight,
        WeightRange,
        ordered,
    )
    from xpsr_sdk.builtin.degradation_tools import (
        RESIZE_MODES,
        Dice,
        DrawnDegradation,
        ResizeMode,
        check_batch,
        check_image,
        jpeg,
        resize_aliased,
        to_8_bit,
    )
    from xpsr_sdk.builtin.measured import MEASURED_PHRASES
    from xpsr_sdk.builtin.samplers import DiffusersSampler
    from xpsr_sdk.builtin.stable_diffusion import StableDiffusion
    from xpsr_sdk.builtin.stable_diffusion_xl import StableDiffusionXL
    from xpsr_sdk.data.files import find_images
    from xpsr_sdk.data.images import read_image, to_image, to_tensor
    from xpsr_sdk.errors import config_error, did_you_mean, one_line, short
    from xpsr_sdk.hardware.devices import find_device
    from xpsr_sdk.models.checkpoints import read_json
    from xpsr_sdk.models.fusion import from_published_name, init_fusions, to_published_name, transformer_like
    from xpsr_sdk.models.pretrained import check_loaded, load_network
    from xpsr_sdk.plugin_system.scope import create_part
    from xpsr_sdk.runners.crew import Spread
    from xpsr_sdk.runners.hand import Answer, Hand

__all__ = [
    "MEASURED_PHRASES",
    "RESIZE_MODES",
    "Answer",
    "Dice",
    "DiffusersSampler",
    "DrawnDegradation",
    "Hand",
    "Probability",
    "QualityRange",
    "ResizeMode",
    "SizeRange",
    "Spread",
    "StableDiffusion",
    "StableDiffusionXL",
    "Weight",
    "WeightRange",
    "check_batch",
    "check_image",
    "check_loaded",
    "config_error",
    "create_part",
    "did_you_mean",
    "find_device",
    "find_images",
    "from_published_name",
    "init_fusions",
    "jpeg",
    "kernels",
    "load_network",
    "one_line",
    "ordered",
    "read_image",
    "read_json",
    "resize_aliased",
    "short",
    "to_8_bit",
    "to_image",
    "to_published_name",
    "to_tensor",
    "transformer_like",
]

HOME_OF = homes_of(
    {
        "builtin": "kernels",
        "builtin.degradation_options": "Probability QualityRange SizeRange Weight WeightRange ordered",
        "builtin.degradation_tools": "RESIZE_MODES Dice DrawnDegradation ResizeMode check_batch check_image jpeg "
        "resize_aliased to_8_bit",
        "builtin.measured": "MEASURED_PHRASES",
        "builtin.samplers": "DiffusersSampler",
        "builtin.stable_diffusion": "StableDiffusion",
        "builtin.stable_diffusion_xl": "StableDiffusionXL",
        "data.files": "find_images",
        "data.images": "read_image to_image to_tensor",
        "errors": "config_error did_you_mean one_line short",
        "hardware.devices": "find_device",
        "models.checkpoints": "read_json",
        "models.pretrained": "check_loaded load_network",
        "models.fusion": "from_published_name init_fusions to_published_name transformer_like",
        "plugin_system.scope": "create_part",
        "runners.crew": "Spread",
        "runners.hand": "Answer Hand",
    }
)

if not TYPE_CHECKING:  # type checkers read the imports above; with this they would accept every misspelt name
    __getattr__ = lazy_names(__name__, HOME_OF)


def __dir__() -> list[str]:
    return __all__
