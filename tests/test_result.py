"""What can be done with a result: saved to memory, shown in a notebook, sent to another process."""

from __future__ import annotations

import copy
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import tiny
from xpsr_sdk import ImageError, Pipeline, PipelineConfig, Result, build_pipeline
from xpsr_sdk.config import RestoreConfig
from xpsr_sdk.data.photo import load_photo


@pytest.fixture(scope="module")
def result(pipe: Pipeline) -> Result:
    restored: Result = pipe(tiny.photo(24, 16), scale=2, seed=1)
    return restored


def test_a_result_is_saved_to_memory(result: Result) -> None:
    result.save(file := BytesIO(), format="PNG")
    assert np.array_equal(np.asarray(Image.open(file)), np.asarray(result.image))
    with pytest.raises(ImageError, match='give format, such as format="png"'):
        result.save(BytesIO())


def test_a_pil_image_that_was_closed_is_told(tmp_path: Path) -> None:
    tiny.photo(20, 16).save(tmp_path / "photo.png")
    closed = Image.open(tmp_path / "photo.png")
    closed.close()
    with pytest.raises(ImageError, match="it was closed before it was read"):
        load_photo(closed, RestoreConfig())


def test_a_notebook_shows_a_result(result: Result) -> None:
    assert Image.open(BytesIO(result._repr_png_())).size == result.image.size


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
def test_a_result_can_be_copied_and_sent_to_another_process(result: Result, copied: Any) -> None:
    again = copied(result)
    assert np.array_equal(np.asarray(again.image), np.asarray(result.image))
    assert (again.seed, again.plan) == (result.seed, result.plan)


def test_several_photos_may_come_from_any_iterable(pipe: Pipeline) -> None:
    assert [r.image.size for r in pipe(tiny.photo(24, 16) for _ in range(2))] == [(96, 64)] * 2


def test_types_of_torch_are_taken_for_their_names(tmp_path: Any) -> None:
    config = PipelineConfig(model=tmp_path, device=torch.device("cpu"), dtype=torch.float32)
    assert (config.model, config.device, config.dtype) == (str(tmp_path), "cpu", "float32")


def test_a_python_program_sees_no_bars_over_weights(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build_pipeline(model=tiny_model, device="cpu")
    assert capfd.readouterr().err == ""
