"""Quantised weights: less memory, nearly the same photo, and a clear refusal of what cannot work."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn

from tests.support import tiny
from tests.support.tiny import PHOTO, same
from xpsr_sdk import ConfigError, Pipeline, Result, build_pipeline
from xpsr_sdk.config import ExecutionConfig
from xpsr_sdk.engine import quantized
from xpsr_sdk.engine.memory import weight_bytes
from xpsr_sdk.engine.quantized import quantize_networks

OPTIONS: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, "prompt": "a cat"}


@pytest.fixture(autouse=True)
def _small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "SMALLEST", 2**11)


def build(kind: str, **execution: Any) -> Pipeline:
    return build_pipeline(tiny.sd_config(), execution={"quantize": kind, **execution})


def difference(a: Result, b: Result) -> float:
    """The mean absolute difference of two photos, in levels of 255."""
    return float(np.abs(np.asarray(a.image, float) - np.asarray(b.image, float)).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "bits", "error"), [("int8", 8, 0.006), ("fp8", 8, 0.03), ("nf4", 4, 0.1)])
def test_weights_are_rounded_and_small(kind: Any, bits: int, error: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(256, 512), nn.Conv2d(64, 96, 3), nn.Linear(512, 16), nn.Conv2d(4, 32, 3)])
    layers.to(dtype)
    with torch.no_grad():
        layers[2].weight.zero_()  # as a zero convolution
    before = [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in layers]
    quantize_networks([layers], kind)
    quantize_networks([layers], kind)  # once is enough
    for layer, (weight, bias) in zip(copy.deepcopy(layers), before, strict=True):
        assert layer.weight.shape == weight.shape
        assert layer.weight.dtype == dtype
        assert (layer.weight - weight).float().norm() <= error * weight.float().norm()
        assert torch.equal(layer.bias, bias)
    assert torch.equal(layers[3].weight, before[3][0])  # too small to matter
    numbers = sum(weight.numel() for weight, _ in before[:3])
    rest = sum(bias.numel() for _, bias in before) + before[3][0].numel()
    assert weight_bytes(layers) <= 1.15 * numbers * bits / 8 + rest * dtype.itemsize


@pytest.mark.parametrize(("kind", "levels"), [("int8", 1), ("nf4", 15)])
def test_a_photo_is_nearly_the_same_with_less_memory(sd_pipe: Pipeline, kind: str, levels: float) -> None:
    pipe = build(kind)
    result = pipe(PHOTO, **OPTIONS)
    assert difference(result, sd_pipe(PHOTO, **OPTIONS)) < levels  # of random weights
    assert result.plan.execution.quantize == kind
    assert pipe.unet.dtype == torch.float32
    full, small = sd_pipe.explain(PHOTO).weight_bytes, pipe.explain(PHOTO).weight_bytes
    assert small["unet"] < 0.55 * full["unet"]
    assert small["controlnet"] < 0.55 * full["controlnet"]
    assert small["vae"] == full["vae"]


@pytest.mark.parametrize(("kind", "offload"), [("int8", "group"), ("nf4", "model")])
def test_quantised_weights_can_be_offloaded(kind: str, offload: str) -> None:
    assert same(build(kind, offload=offload)(PHOTO, **OPTIONS).image, build(kind)(PHOTO, **OPTIONS).image)


def test_a_lora_works_beside_quantised_weights(tmp_path: Path) -> None:
    source = build_pipeline(tiny.sd_config())
    lora = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=r".*\.attentions\..*attn2\.to_[qv]")
    source.unet.add_adapter(lora)
    Pipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(source.unet))
    pipe = build("int8")
    before = pipe(PHOTO, **OPTIONS)
    pipe.load_lora_weights(tmp_path)
    changed = pipe(PHOTO, **OPTIONS)
    assert difference(changed, source(PHOTO, **OPTIONS)) < 0.5 * difference(changed, before)
    with pytest.raises(ConfigError, match=r"A LoRA cannot be written into the weights .* quantised \(int8\)"):
        pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert same(pipe(PHOTO, **OPTIONS).image, before.image)
    merged = build_pipeline(tiny.sd_config(), lora=(str(tmp_path),), execution={"quantize": "int8"})
    assert difference(merged(PHOTO, **OPTIONS), changed) < 0.5 * difference(changed, before)


def test_quantised_weights_are_neither_saved_nor_quantised_again(tmp_path: Path) -> None:
    pipe = build("int8")
    with pytest.raises(ConfigError, match=r"The weights of a model cannot be saved after they were quantised \(int8\)"):
        pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    for other in (ExecutionConfig(quantize="nf4"), ExecutionConfig()):
        with pytest.raises(ConfigError, match=r"The weights are quantised already \(int8\)"):
            pipe.set_execution(other)


def test_fp8_is_refused_where_it_gains_nothing() -> None:
    with pytest.raises(ConfigError, match=r"quantize is 'fp8', which gains nothing on cpu: .* int8 is faster"):
        build("fp8")


def test_nf4_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    quantized._bitsandbytes.cache_clear()
    with pytest.raises(ConfigError, match=r"quantize is 'nf4', which needs bitsandbytes .*: pip install"):
        build("nf4")
