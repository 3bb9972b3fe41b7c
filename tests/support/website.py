"""Runs the page in this process, with tiny models."""

from __future__ import annotations

import gc
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from tests.support import web_parts
from xpsr_sdk import PipelineConfig, Registry
from xpsr_sdk.cli.web import options_of_upscale
from xpsr_sdk.web.catalogue import Catalogue
from xpsr_sdk.web.desk import Desk
from xpsr_sdk.web.dials import Dials
from xpsr_sdk.web.limits import Limits
from xpsr_sdk.web.models import Models
from xpsr_sdk.web.recipe import Recipe
from xpsr_sdk.web.restorer import Restorer
from xpsr_sdk.web.server import build_app


@dataclass
class Site:
    """A page that runs.

    Attributes:
        address: Where it is.
        desk: Its desk.
        models: Its models.
    """

    address: str
    desk: Desk
    models: Models


@contextmanager
def running(
    models: Sequence[str],
    users: dict[str, str] | None = None,
    folder: Path | None = None,
    provider: str = "counting",
    **limits: Any,
) -> Iterator[Site]:
    """Run the page with these models and limits."""
    registry, allowed, flags = Registry([web_parts]), Limits(**limits), options_of_upscale()
    base = PipelineConfig(device="cpu", prompt_provider=provider)
    dials = Dials(Catalogue(registry, base, models, folder), base, allowed, flags)
    loaded = Models(registry, allowed.warm_models)
    desk = Desk(dials, Restorer(loaded, allowed.queue_size, Recipe(base, flags)), allowed)
    with without_what_gradio_leaves():
        app = build_app(desk, dials, allowed, users or {}, ())
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    with listening, desk.restorer.hearing_warnings():
        thread.start()
        try:
            yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", desk, loaded)
        finally:
            web_parts.GO.set()
            server.should_exit = True
            thread.join()


@contextmanager
def without_what_gradio_leaves() -> Iterator[None]:
    """Within the block, collect the event loops that gradio makes and never closes, which is a warning elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()
