"""What all tests share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from xpsr_sdk import Registry

if TYPE_CHECKING:
    from xpsr_sdk import Pipeline

# The same examples at each run; no deadline, since a busy machine is no failure.
settings.register_profile("xpsr", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("xpsr")


@pytest.fixture
def registry() -> Registry:
    """A registry of the built-in components alone."""
    return Registry([])


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole model with random weights. Read it, never write to it."""
    from tests.support import tiny

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.write_whole_model(folder)
    return folder


@pytest.fixture(scope="session")
def pipe(tiny_model: Path) -> Pipeline:
    """A pipeline with that model. Call it, but leave it as it is."""
    from xpsr_sdk import build_pipeline

    return build_pipeline(model=str(tiny_model), device="cpu")


@pytest.fixture(scope="module")
def sd_pipe() -> Pipeline:
    """A pipeline of Stable Diffusion's architecture, tiny. Call it, but leave it as it is."""
    from tests.support import tiny
    from xpsr_sdk import build_pipeline

    return build_pipeline(tiny.sd_config())


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four training pairs, with prompts."""
    from tests.support import tiny
    from xpsr_sdk.preparation.prepare import prepare_pairs

    folder = tmp_path_factory.mktemp("pairs")
    for seed in range(4):
        tiny.photo(72, 64, seed).save(folder / f"{seed}.png")
    prepare_pairs(folder, folder / "pairs", degradation="bicubic")
    return folder / "pairs"
