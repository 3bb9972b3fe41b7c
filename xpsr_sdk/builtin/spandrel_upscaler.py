"""Upscalers from files of weights: ESRGAN, SwinIR, DAT, SPAN and about forty more architectures, loaded by spandrel.

Spandrel (https://github.com/chaiNNer-org/spandrel) recognizes the architecture by the tensors. Real-ESRGAN x4+, which
comes with the package, is such a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings

import torch
from pydantic import Field
from torch import Tensor

from xpsr_sdk.config import PRESETS
from xpsr_sdk.contracts import Options
from xpsr_sdk.errors import CheckpointError, ConfigError
from xpsr_sdk.weight_files import read_weights

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

SHIPPED = PRESETS / "upscalers"
"""Files that come with the package."""


class SpandrelUpscaler:
    """Enlarges with the network in a file. See ``xpsr_sdk.Upscaler`` for the contract.

    The file is read when the upscaler is built. Only tensors are read, also from pickled files.

    Raises:
        ConfigError: No file is named, or it does not exist.
        CheckpointError: The file is damaged, or holds anything but a network that enlarges photos.
    """

    class Config(Options):
        """Options of ``SpandrelUpscaler``."""

        path: str = Field("", description="A .safetensors, .pth or .pt file, or the name of one that is shipped.")
        halo: int = Field(32, ge=0, le=256, description="Input pixels around a tile that its result may depend on.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self.halo = self.config.halo
        self._path = _find(self.config.path)
        self._descriptor: ImageModelDescriptor | None = self._load()
        self.scale = int(self._descriptor.scale)

    def upscale(self, image: Tensor) -> Tensor:
        """Enlarge images, B 3 h w in [0, 1]. Returns B 3 s*h s*w, in the dtype and on the device of the images."""
        descriptor = self._descriptor = self._descriptor or self._load()
        dtype = image.dtype if _computes_in(descriptor, image.dtype) else torch.float32
        if descriptor.dtype not in (dtype, torch.float32):  # weights in half precision have lost bits: read them again
            descriptor = self._descriptor = self._load()
        descriptor.to(image.device, dtype).model.to(memory_format=torch.channels_last)
        enlarged = descriptor(image.to(dtype).contiguous(memory_format=torch.channels_last))
        # The result is copied, since training cannot use tensors that were made in torch's inference mode.
        return enlarged.to(image.dtype, memory_format=torch.contiguous_format, copy=True)

    def unload(self) -> None:
        """Free the network; the next call reads the file again."""
        self._descriptor = None

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: not the network, which spandrel's descriptor does not allow; a copy reads the file again."""
        return self.__dict__ | {"_descriptor": None}

    def _load(self) -> ImageModelDescriptor:
        with catch_warnings(action="ignore"):  # torch warns about the format of a file or the code of an architecture
            return self._open()

    def _open(self) -> ImageModelDescriptor:
        from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError, canonicalize_state_dict

        state = _as_float(read_weights(self._path))
        try:
            found = ModelLoader().load_from_state_dict(canonicalize_state_dict(state))
        except UnsupportedModelError:
            raise CheckpointError(f"{self._path} holds no architecture that spandrel knows.") from None
        except Exception as error:  # each architecture raises its own errors for tensors that do not fit
            what = "its tensors are not those of one of spandrel's architectures"
            raise CheckpointError(f"{self._path} is damaged: {what}.") from error
        what = f"{self._path} holds {found.architecture.name}"
        if not isinstance(found, ImageModelDescriptor) or found.purpose != "SR" or found.scale < 2:
            purpose = f"{found.purpose}, x{found.scale}"
            raise CheckpointError(f"{what} ({purpose}): an upscaler enlarges whole photos at least twofold.")
        if (found.input_channels, found.output_channels) != (3, 3):
            channels = f"{found.input_channels} channels to {found.output_channels}"
            raise CheckpointError(f"{what} from {channels}: an upscaler takes and gives RGB, 3 channels.")
        found.model.requires_grad_(False)
        return found.eval()


def _computes_in(descriptor: ImageModelDescriptor, dtype: torch.dtype) -> bool:
    """Whether spandrel says that an architecture keeps its quality in a precision."""
    supported = {torch.float16: descriptor.supports_half, torch.bfloat16: descriptor.supports_bfloat16}
    return supported.get(dtype, dtype == torch.float32)


def _find(path: str) -> Path:
    shipped = sorted(file.stem for file in SHIPPED.glob("*.safetensors"))
    if path in shipped:
        return SHIPPED / f"{path}.safetensors"
    file = Path(os.path.expanduser(path))
    if not path:
        raise ConfigError("The upscaler spandrel needs the option path: a file of weights.")
    if not file.is_file():
        raise ConfigError(f"The upscaler's file {path} does not exist. Shipped are: {', '.join(shipped)}.")
    return file


def _as_float(value: Any) -> Any:
    """Convert floating-point tensors to float32, so that the precision of the file does not matter."""
    if isinstance(value, dict):
        return {name: _as_float(inner) for name, inner in value.items()}
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
