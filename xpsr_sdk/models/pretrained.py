"""Networks of diffusers and transformers from folders: every weight comes from a safetensors file.

Both libraries fill what they do not find in a file with random numbers, and tell so in a log that few people read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin

from xpsr_sdk.errors import CheckpointError, XPSRError, told_by_library
from xpsr_sdk.files.reading import read_json
from xpsr_sdk.models.config_files import check_entries, check_network_config
from xpsr_sdk.models.network_files import find_network_files
from xpsr_sdk.models.single_file import is_noted, read_noted
from xpsr_sdk.weight_files import read_shapes

HARMLESS = "position_ids"
"""Old versions of transformers stored these: they are the numbers from 0 on, and no weights."""
LIBRARIES = ("diffusers", "transformers", "xpsr_sdk")
"""Where the classes of networks come from, beside plug-ins."""


def load_network(cls: Any, folder: Path, dtype: torch.dtype, variant: str | None = None) -> Any:
    """A network of diffusers or transformers, in evaluation mode on the CPU.

    Args:
        cls: Its class.
        folder: With ``config.json`` and safetensors files; pickled weights are never read.
        dtype: Its precision.
        variant: The variant of its files that is wanted where there is one, such as ``fp16``. None: the plain files,
            or a variant where there are none: see ``xpsr_sdk.models.network_files``.

    Raises:
        CheckpointError: A file is missing or damaged, or a tensor is missing, unknown or of another shape.
    """
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder / 'config.json'} does not exist: a model folder needs it.")
    config = read_json(folder / "config.json", CheckpointError)
    check_network_config(config, folder / "config.json")
    if issubclass(cls, ModelMixin):
        check_entries(cls, config, folder / "config.json")
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} holds an adapter (adapter_config.json): a model folder holds whole networks.")
    if is_noted(folder):
        return _from_single_file(cls, folder, dtype)
    files = find_network_files(folder, variant)
    for file in files.files:
        read_shapes(file)  # whether it is whole, since the libraries do not say which file is damaged
    usual = torch.get_default_dtype()
    named = {"torch_dtype": dtype} if issubclass(cls, ModelMixin) else {"dtype": dtype}
    try:
        network, found = cls.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            variant=files.variant,
            **named,
        )
    except (XPSRError, MemoryError):
        raise
    except Exception as error:  # the libraries check little, so that what is damaged fails anywhere
        raise CheckpointError(f"{folder} is damaged or no {cls.__name__}{told_by_library(error)}.") from error
    finally:
        torch.set_default_dtype(usual)  # where a network cannot be made, diffusers leaves the one that it set
    check_loaded(found, str(folder))
    return network.eval()


def check_loaded(found: Mapping[str, Any], where: str) -> None:
    """Raise ``CheckpointError`` unless files and network had the same tensors.

    Args:
        found: What ``from_pretrained(..., output_loading_info=True)`` of diffusers or transformers gives.
        where: What the message calls the files.
    """
    wrong = [f"{name} is missing" for name in sorted(found.get("missing_keys") or ())]
    extra = (name for name in found.get("unexpected_keys") or () if not name.endswith(HARMLESS))
    wrong += [f"{name} is not part of the network" for name in sorted(extra)]
    wrong += [f"{each[0]} has another shape" for each in found.get("mismatched_keys") or ()]
    if wrong:
        more = f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""
        raise CheckpointError(f"{where} does not hold the weights that its config.json describes: {wrong[0]}{more}.")


def _from_single_file(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A network whose weights are in a single file: see ``xpsr_sdk.models.single_file``."""
    tensors, file = read_noted(folder)
    config = read_json(folder / "config.json", CheckpointError)
    with init_empty_weights(include_buffers=False):
        network = cls.from_config(config) if issubclass(cls, ModelMixin) else cls(cls.config_class.from_dict(config))
    expected = network.state_dict()
    if not any(name.startswith("text_model.") for name in expected):  # transformers 5.6 left this out of the names
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(HARMLESS)}
    shared = expected.keys() & tensors.keys()
    found = {
        "missing_keys": expected.keys() - tensors.keys(),
        "unexpected_keys": tensors.keys() - expected.keys(),
        "mismatched_keys": [(name,) for name in sorted(shared) if expected[name].shape != tensors[name].shape],
    }
    check_loaded(found, f"{file} ({folder.name})")
    tensors = {name: tensor.to(dtype, copy=True).contiguous() for name, tensor in tensors.items()}
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def class_in_index(entry: object, where: str) -> Any:
    """The class that an entry of ``model_index.json`` names as library and name.

    Raises:
        CheckpointError: It is none of the libraries' networks.
    """
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(name, str) for name in entry):
        library, name = entry
        is_known = library in sys.modules or library.partition(".")[0] in LIBRARIES  # a plug-in is imported by now
        if is_known and name.isidentifier():
            try:
                found = getattr(import_module(library), name, None)
            except ImportError:
                found = None
            if isinstance(found, type) and hasattr(found, "from_pretrained"):
                return found
    raise CheckpointError(f"{where} names no network of {', '.join(LIBRARIES)}: {entry!r}.")
