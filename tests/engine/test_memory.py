"""How much memory there is and is taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from xpsr_sdk.engine.memory import activation_bytes, is_out_of_memory, weight_bytes
from xpsr_sdk.library_internals import on_meta

KIB = 1024


def test_features_count_while_they_are_alive() -> None:
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(5)))
    x = torch.empty(1, 256, device="meta")
    stand_in = on_meta(model)
    # A layer's input and its output, but no weights.
    assert activation_bytes(lambda: stand_in(x), [stand_in]) == 2 * KIB


def test_attention_holds_no_scores() -> None:
    def attend() -> None:
        q = torch.empty(1, 1, 4096, 4, device="meta")
        scaled_dot_product_attention(q, q, q)

    assert activation_bytes(attend, []) == 2 * 4096 * 4 * 4


def test_weights_are_counted_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
    assert weight_bytes(model) == 4 * (16 + 4 * 4) + 8
    assert weight_bytes("tokenizer") == 0


def test_refused_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(10**15)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))
