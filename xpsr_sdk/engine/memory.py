"""How much memory weights and a forward pass need, and whether an error means that memory ran out."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from xpsr_sdk.errors import BrokenPlugin
from xpsr_sdk.library_internals import TorchDispatchMode, tree_leaves

RESERVE = 0.8
"""The share of the free memory that plans may use. The rest is for the temporary memory of kernels."""
OUT_OF_MEMORY_PHRASES = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "_status_alloc_failed",  # cuBLAS and cuDNN
    "unable to find an engine to execute this computation",  # cuDNN without room for a workspace
    "could not create a primitive",  # oneDNN without memory
)
"""Parts of the error messages of libraries that could not allocate memory, in small letters."""


def weight_bytes(model: Any) -> int:
    """Bytes of a model's parameters and buffers; 0 if it is not a ``torch.nn.Module``."""
    if not isinstance(model, nn.Module):
        return 0
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def activation_bytes(run: Callable[[], object], models: Iterable[nn.Module]) -> int:
    """The peak memory of the tensors that ``run`` makes, in bytes. It is found on the meta device, without computing.

    ``run`` calls ``models``, which were made by ``on_meta``. The weights and the temporary memory of kernels are not
    counted.
    """
    weights = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    with torch.no_grad(), _FusedAttention(), LiveBytes(weights) as counter:
        before = counter.live
        run()
    return counter.peak - before


class LiveBytes(TorchDispatchMode):
    """Within the block, counts the bytes of all tensors that are alive: ``live`` now, and ``peak`` at most so far.

    It also counts fake tensors, which have no content: enter ``torch._subclasses.FakeTensorMode`` before.

    Args:
        tensors: Tensors that exist already. They count, too.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: Any = WeakIdKeyDictionary()
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the tensors that it made."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.live -= size


class _FusedAttention(TorchFunctionMode):
    """Replaces SDPA. On the meta device it would make the whole matrix of attention scores, unlike fused kernels."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            named = {**dict(zip(("query", "key", "value"), args, strict=False)), **(kwargs or {})}
            query, value = named["query"], named["value"]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that the device or the host has run out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, BrokenPlugin) and error.__cause__ is not None:
        return is_out_of_memory(error.__cause__)  # it was refused to a plug-in
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in message for phrase in OUT_OF_MEMORY_PHRASES)
