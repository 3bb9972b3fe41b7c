"""Compiled networks: one piece, and not made again for every photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import tiny
from xpsr_sdk import Pipeline, build_pipeline
from xpsr_sdk.config import ExecutionConfig
from xpsr_sdk.engine import packing
from xpsr_sdk.evaluation.metrics import psnr


@pytest.fixture
def compiled(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline whose networks are traced as for any compiler, by a backend that runs what was traced."""
    compile_with = torch.nn.Module.compile

    def traced(module: torch.nn.Module, mode: str, fullgraph: bool) -> None:
        assert mode == "default"
        compile_with(module, backend="eager", fullgraph=fullgraph)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    monkeypatch.setattr(packing, "WIDTH", 8)  # as in full-size networks, there are kernels that would be packed
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return build_pipeline(model=str(tiny_model), device="cpu", execution={"compile": "default"})


def test_other_sizes_steps_and_seeds_need_no_other_code(compiled: Pipeline, pipe: Pipeline) -> None:
    options: dict[str, Any] = {"tile": 128, "fidelity": 0, "low_prompt": "blurry", "tile_batch": 2}
    for width, height, steps in ((50, 40, 2), (64, 33, 3)):
        photo = tiny.photo(width, height)
        found = compiled(photo, seed=steps, num_inference_steps=steps, **options).image
        assert found.size == (4 * width, 4 * height)
        plain = pipe(photo, seed=steps, num_inference_steps=steps, **options).image
        assert psnr(np.asarray(found), np.asarray(plain), channel="rgb") > 20  # the tiles lie elsewhere
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # of the ControlNet and of the U-Net


def test_compilation_can_be_switched_off_again(compiled: Pipeline, pipe: Pipeline) -> None:
    compiled.set_execution(ExecutionConfig())
    photo = tiny.photo(20, 20)
    found, expected = (each(photo, seed=1).image for each in (compiled, pipe))
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0
