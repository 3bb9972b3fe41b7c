"""How much memory weights and a forward pass take, and whether it was too much."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

RESERVE = 0.8
"""Share of the free memory that is planned with; kernels take some for themselves."""
REFUSALS = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "_status_alloc_failed",  # cuBLAS and cuDNN
    "unable to find an engine to execute this computation",  # cuDNN without room for a workspace
    "could not create a primitive",  # oneDNN likewise
)
"""What libraries say that were refused memory."""


def weight_bytes(model: Any) -> int:
    """Bytes of a model's parameters and buffers; 0 for what is no model."""
    if not isinstance(model, nn.Module):
        return 0
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def activation_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors made by ``run`` hold at once, found on the meta device, without computing.

    ``run`` calls models made by ``on_meta``. What kernels take for themselves is not in it.
    """
    with torch.no_grad(), _FusedAttention(), _Peak() as peak:
        run()
    return peak.most


def on_meta(model: nn.Module) -> Any:
    """A copy of ``model`` with stand-ins for its weights, and without what was hooked onto it: offloading, compilation.

    Made outside of what is measured, it does not count.
    """
    copy: Any = model.__new__(type(model))
    vars(copy).update({name: value for name, value in vars(model).items() if name not in ("forward", "_hf_hook")})
    copy._forward_hooks, copy._forward_pre_hooks, copy._compiled_call_impl = OrderedDict(), OrderedDict(), None
    for kind in ("_parameters", "_buffers"):
        vars(copy)[kind] = {name: x if x is None else x.to("meta") for name, x in vars(model)[kind].items()}
    copy._modules = {name: None if part is None else on_meta(part) for name, part in model._modules.items()}
    return copy


class _Peak(TorchDispatchMode):
    """Adds up the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage(), counted=False)  # weights and inputs
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage(), counted=True)
        return result

    def _add(self, storage: torch.UntypedStorage, counted: bool) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive.add(key)
        size = storage.nbytes() if counted else 0
        self._now += size
        self.most = max(self.most, self._now)

        def gone() -> None:
            self._alive.discard(key)
            self._now -= size

        weakref.finalize(storage, gone)


class _FusedAttention(TorchFunctionMode):
    """On the meta device, attention would be the textbook's, whose scores no fused kernel ever holds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            named = {**dict(zip(("query", "key", "value"), args, strict=False)), **(kwargs or {})}
            query, value = named["query"], named["value"]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host has refused memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(refusal in words for refusal in REFUSALS)
