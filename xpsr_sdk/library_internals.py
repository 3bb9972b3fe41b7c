"""Private names of torch, diffusers and accelerate that the SDK needs, each with the reason.

No other module uses such names. If a new version of a library changes one, ``tests/test_library_internals.py`` says
which, and only this module has to change.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# The only way to see every tensor that operations make. Both are documented, but have no public name in torch 2.7.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves

ATTENTION_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""The operation that SDPA calls on the CPU. torch's counter of floating-point operations does not know it."""


def uncompile(network: nn.Module) -> None:
    """Undo ``network.compile()``. torch has no public way to do this."""
    network._compiled_call_impl = None


@contextmanager
def compilation_kept(*networks: nn.Module) -> Iterator[None]:
    """After the block, the networks are compiled, or not, as they were before it."""
    before = [network._compiled_call_impl for network in networks]
    try:
        yield
    finally:
        for network, compiled in zip(networks, before, strict=True):
            network._compiled_call_impl = compiled


def on_meta(model: nn.Module) -> Any:
    """A copy of ``model`` on the meta device, without hooks, offloading and compilation.

    ``copy.deepcopy`` would also copy the weights and the hooks.
    """
    copy: Any = model.__new__(type(model))
    vars(copy).update({name: value for name, value in vars(model).items() if name not in ("forward", "_hf_hook")})
    copy._forward_hooks, copy._forward_pre_hooks, copy._compiled_call_impl = OrderedDict(), OrderedDict(), None
    for kind in ("_parameters", "_buffers"):
        vars(copy)[kind] = {name: x if x is None else x.to("meta") for name, x in vars(model)[kind].items()}
    copy._modules = {name: None if part is None else on_meta(part) for name, part in model._modules.items()}
    return copy


def is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate moves ``model`` to the device when it is called. There is no public way to know."""
    return hasattr(model, "_hf_hook")


def version_of(tensor: Tensor) -> tuple[int, int]:
    """A value that changes whenever the tensor is written to. autograd counts this, but has no public name for it."""
    return tensor.data_ptr(), tensor._version


def pack_convolution(layer: Any, shape: Sequence[int]) -> Tensor:
    """The weights of a convolution in the order in which oneDNN reads them for inputs of this shape.

    torch does this only for compiled networks (``torch._inductor``), and has no public function for it.
    """
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    packed: Tensor = reorder(
        layer.weight.to_mkldnn(), layer.padding, layer.stride, layer.dilation, layer.groups, list(shape)
    )
    return packed


def run_packed_convolution(layer: Any, x: Tensor, packed: Tensor) -> Tensor:
    """Compute ``layer(x)`` with weights from ``pack_convolution``."""
    arguments = (layer.padding, layer.stride, layer.dilation, layer.groups)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, packed, layer.bias, *arguments, "none", [], "")
    return out


def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU can multiply in bfloat16 (AMX, AVX512-BF16). torch 2.7 has no public way to know."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def reset_accelerate(keep_processes: bool) -> None:
    """Let the next ``Accelerator`` choose its device and precision again. accelerate keeps those of the first one.

    Args:
        keep_processes: Whether to keep the process group that a launcher such as ``torchrun`` started.
    """
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()
    if not keep_processes:
        PartialState._reset_state()


def exclude_from_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Make DDP, which will wrap ``module``, ignore these parameters. Its constructor has no such argument."""
    from torch.nn.parallel import DistributedDataParallel

    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, list(names))


class DiffusersLoading:
    """Changes how diffusers loads a model. It must come before the diffusers class in the list of base classes.

    - diffusers accepts only config entries that are arguments of the model's own constructor. Our constructors pass
      other arguments on to their base classes, so the arguments of those count, too.
    - diffusers renames tensors of a checkpoint by its own rules only. Here a model can have other rules.
    """

    @staticmethod
    def name_in_model(name: str) -> str:
        """The name of a tensor in the model, given its name in a file. To be overridden."""
        return name

    @staticmethod
    def init_keys(model_class: type) -> set[str]:
        """The names of a model's config entries: the arguments of its constructor and of those that it calls."""
        keys: set[str] = set()
        for init in (vars(c)["__init__"] for c in model_class.__mro__ if "__init__" in vars(c)):
            parameters = inspect.signature(init).parameters.values()
            keys |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
        return keys

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        return DiffusersLoading.init_keys(input_class)

    def _fix_state_dict_keys_on_load(self, state_dict: dict[str, Tensor]) -> None:
        for key in list(state_dict):
            state_dict[self.name_in_model(key)] = state_dict.pop(key)
        super()._fix_state_dict_keys_on_load(state_dict)  # type: ignore[misc]  # the diffusers class's
