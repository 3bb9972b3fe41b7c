"""An HTTP client that reads a reply to a limit, and follows no redirect with a photo and a key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

LARGEST_REPLY = 2**24
"""Bytes of a reply that are read: an answer in words takes a few thousand."""


def careful_client() -> Any:
    """A client for ``openai.AsyncOpenAI``. Replies that it does not take are errors of the connection."""
    from openai import DefaultAsyncHttpxClient

    return DefaultAsyncHttpxClient(
        follow_redirects=False, headers={"Accept-Encoding": "identity"}, event_hooks={"response": [_check]}
    )


async def _check(response: Any) -> None:
    """Called when the head of a reply has been read.

    Raises:
        ValueError: It is a redirect, or compressed, so that nobody knows how large it is.
    """
    if response.is_redirect:
        where = response.headers.get("Location", "nowhere")
        raise ValueError(f"the endpoint redirects to {where}, where photos are not sent: give that as base_url")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ValueError(f"the reply is compressed by {encoding}, which was not asked for")
    # openai may use httpx, or a successor with the same names.
    base: Any = import_module(type(response).__module__.partition(".")[0]).AsyncByteStream
    response.stream = type("LimitedStream", (_Limited, base), {})(response.stream)


class _Limited:
    """The bytes of a reply; an error beyond ``LARGEST_REPLY``."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > LARGEST_REPLY:
                raise ValueError(f"the reply has more than {LARGEST_REPLY // 2**20} MiB")
            yield part

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()
