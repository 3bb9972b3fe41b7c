"""Private names of torch, diffusers and accelerate that the SDK cannot do without, each with the reason.

No other module uses such names: where a new version of a library moves one, this module alone has to follow, and
``tests/test_library_internals.py`` tells which.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# The only way to see every tensor that operations make. Both are documented, but have no public place in torch 2.7.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves

ATTENTION_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""What ``scaled_dot_product_attention`` calls on the CPU, where torch's counter of operations does not know it."""


def uncompile(network: nn.Module) -> None:
    """Undo ``network.compile()``, for which torch has no public way."""
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
    """A copy of ``model`` with stand-ins for its weights, and without hooks, offloading and compilation.

    ``copy.deepcopy`` would copy the weights as well, and what is hooked onto the model.
    """
    copy: Any = model.__new__(type(model))
    vars(copy).update({name: value for name, value in vars(model).items() if name not in ("forward", "_hf_hook")})
    copy._forward_hooks, copy._forward_pre_hooks, copy._compiled_call_impl = OrderedDict(), OrderedDict(), None
    for kind in ("_parameters", "_buffers"):
        vars(copy)[kind] = {name: x if x is None else x.to("meta") for name, x in vars(model)[kind].items()}
    copy._modules = {name: None if part is None else on_meta(part) for name, part in model._modules.items()}
    return copy


def is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate moves ``model`` to the device when it is called: nothing else says so."""
    return hasattr(model, "_hf_hook")


def version_of(tensor: Tensor) -> tuple[int, int]:
    """Changes when the tensor's values are written to, in place or not: autograd counts that, and tells nobody."""
    return tensor.data_ptr(), tensor._version


def pack_convolution(layer: Any, shape: Sequence[int]) -> Tensor:
    """The weights of a convolution in the order in which oneDNN reads them for inputs of this shape.

    torch does this by itself for compiled networks only (``torch._inductor``), and not in any public function.
    """
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    packed: Tensor = reorder(
        layer.weight.to_mkldnn(), layer.padding, layer.stride, layer.dilation, layer.groups, list(shape)
    )
    return packed


def run_packed_convolution(layer: Any, x: Tensor, packed: Tensor) -> Tensor:
    """What ``layer(x)`` gives, with weights from ``pack_convolution``."""
    arguments = (layer.padding, layer.stride, layer.dilation, layer.groups)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, packed, layer.bias, *arguments, "none", [], "")
    return out


def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 (AMX, AVX512-BF16): torch 2.7 has no public way to ask."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def reset_accelerate(keep_processes: bool) -> None:
    """Let the next ``Accelerator`` choose its device and precision anew: accelerate keeps the first one's for ever.

    Args:
        keep_processes: Whether the group of processes, started by ``torchrun`` or the like, stays.
    """
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state()
    if not keep_processes:
        PartialState._reset_state()


def exclude_from_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Let DDP, which is to wrap ``module``, leave these parameters alone. Its constructor has no such argument."""
    from torch.nn.parallel import DistributedDataParallel

    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, list(names))


class DiffusersLoading:
    """What diffusers does not let a model say in public; goes before the diffusers class among a model's bases.

    - Config entries are looked for among the arguments of a constructor alone. Our constructors hand on to their base
      what they do not name themselves, so that those count, too.
    - Tensors in a checkpoint may have other names than in the model, but only the names that diffusers knows.
    """

    @staticmethod
    def name_in_model(name: str) -> str:
        """The name in the model of a tensor in a file. To be overridden."""
        return name

    @staticmethod
    def init_keys(model_class: type) -> set[str]:
        """The names of a model's config entries: those of its constructor, and of those that it hands on to."""
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
