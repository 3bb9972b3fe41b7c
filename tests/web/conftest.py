"""What the tests of the page share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tiny, web_parts
from tests.support.website import Site, running


@pytest.fixture(scope="session")
def site(tiny_model: Path) -> Iterator[Site]:
    """A page with a tiny model, and with an upscaler alone."""
    with running([str(tiny_model), "none"], max_file_mb=1, max_megapixels=1, max_result_megapixels=2) as site:
        yield site


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """No test leaves the sampler held."""
    web_parts.ASKED.clear()
    yield
    web_parts.GO.set()


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small photo."""
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    tiny.photo(40, 32).save(file)
    return file
