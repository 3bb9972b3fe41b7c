"""What every request goes through: the password, limits, and which addresses there are at all."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xpsr_sdk.errors import ConfigError
from xpsr_sdk.files.reading import read_bytes

AUTH_VARIABLE = "XPSR_WEB_AUTH"
"""The environment variable that holds a name and a password."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""
OWN = ("/page/", "/api/")
GRADIO = (
    "/config",
    "/gradio_api/info",
    "/gradio_api/call/",
    "/gradio_api/queue/",
    "/gradio_api/upload",
    "/gradio_api/cancel",
    "/gradio_api/reset",
    "/gradio_api/heartbeat/",
    "/gradio_api/startup-events",
)
"""The addresses of gradio's server that ``gradio_client`` needs; it has many others."""
FILES = "/gradio_api/file="
"""How the addresses of gradio's files begin."""
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What browsers are told: nothing is loaded from elsewhere, and no other site may show or read the page."""


@dataclass(frozen=True)
class Rules:
    """What the gate lets pass.

    Attributes:
        most_bytes: The largest request.
        files: The folder that gradio may give files of.
        users: Names and passwords. Empty: nobody is asked.
        hosts: Names of the server that browsers may use. Empty: any. Other sites' names may lead to this machine.
    """

    most_bytes: float
    files: Path
    users: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()


def read_users(file: Path | None) -> dict[str, str]:
    """Names and passwords, from a file with ``name:password`` in each line, or from the environment.

    Raises:
        ConfigError: The file cannot be read, or a line has another form.
    """
    text = read_bytes(file, ConfigError).decode("utf-8", "replace") if file else os.environ.get(AUTH_VARIABLE, "")
    where = f"The file {file}" if file else f"The environment variable {AUTH_VARIABLE}"
    users = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            name, colon, password = line.strip().partition(":")
            if not (name and colon and password):
                raise ConfigError(f"{where}, line {number}, is not name:password.")
            users[name] = password
    if file and not users:
        raise ConfigError(f"{where} holds no name:password.")
    return users


class Gate:
    """An ASGI application in front of another one."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, _limited(receive, self._rules.most_bytes), send_with_headers)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """Why the request is refused; None: it is not."""
        headers, path = Headers(scope=scope), scope["path"]
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if self._rules.hosts and host not in self._rules.hosts:
            return _refused(403, f"This server is not called {host!r}.")
        if not self._exists(path):
            return _refused(404, "There is nothing at this address.")
        if path != "/health" and self._rules.users and not self._knows(headers.get("authorization", "")):
            answer = _refused(401, "A name and a password are needed.")
            answer.headers["WWW-Authenticate"] = 'Basic realm="xpsr web", charset="UTF-8"'
            return answer
        if scope["method"] not in SAFE_METHODS and not _is_own_site(headers, host):
            return _refused(403, "Another site may not do this.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._rules.most_bytes:
            return _too_large(self._rules.most_bytes)
        return None

    def _exists(self, path: str) -> bool:
        if "\0" in path:
            return False
        if path.startswith(FILES):
            place = Path(os.path.realpath(path.removeprefix(FILES)))
            return place.is_relative_to(os.path.realpath(self._rules.files)) and place.is_file()
        return path in ("/", "/health") or path.startswith(OWN + GRADIO)

    def _knows(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        expected = self._rules.users.get(name, "")
        same = hmac.compare_digest(password.encode(), expected.encode())
        return scheme.lower() == "basic" and same and bool(expected)


def _limited(receive: Receive, most: float) -> Receive:
    """Ends a request that turns out to be larger than it may be, as one that the client has given up."""
    got = 0

    async def limited() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        return {"type": "http.disconnect"} if got > most else message

    return limited


def _is_own_site(headers: Headers, host: str) -> bool:
    """Whether a request that changes something comes from the page itself, or from no browser."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).hostname == host


def _refused(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status)


def _too_large(most: float) -> JSONResponse:
    return _refused(413, f"The file is larger than {most / 1e6:g} MB, the most here.")
