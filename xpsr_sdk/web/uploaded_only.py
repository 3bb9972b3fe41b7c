"""Lets gradio's functions be called with files that were uploaded to it, and with no others.

Gradio itself checks this only for servers that it has started, and not within another application. It would also fetch
files from addresses that a visitor gives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLS = ("/gradio_api/call/", "/gradio_api/queue/join")
"""The addresses at which functions are called."""
MOST_BYTES = 2**20
"""The largest call: files are uploaded before it."""


class UploadedOnly:
    """An ASGI application in front of one with gradio's server; ``folder`` is where gradio keeps what is uploaded."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self._app, self._folder = app, folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it calls a function with another file."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(CALLS):
            await self._app(scope, receive, send)
            return
        body = await whole_body(receive)
        if body is None or not self._is_allowed(body):
            refusal = JSONResponse({"error": "Only a file that was uploaded can be restored."}, 403)
            await refusal(scope, receive, send)
            return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Message:
            return next(messages, None) or await receive()

        await self._app(scope, again, send)

    def _is_allowed(self, body: bytes) -> bool:
        try:
            return all(self._was_uploaded(path) for path in _paths(json.loads(body)))
        except (ValueError, RecursionError):
            return False

    def _was_uploaded(self, path: Any) -> bool:
        if not isinstance(path, str) or "\0" in path:
            return False
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self._folder))


async def whole_body(receive: Receive) -> bytes | None:
    """The whole body of a request; None: it has more than ``MOST_BYTES``, or the client has gone."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body"):
            return body


def _paths(value: Any) -> Iterator[Any]:
    """The places of all files in a value, in the form that gradio knows."""
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        for inner in value.values():
            yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)
