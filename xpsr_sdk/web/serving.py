"""Runs the server until Ctrl-C or SIGTERM."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from xpsr_sdk.errors import ConfigError
from xpsr_sdk.web.desk import Desk
from xpsr_sdk.web.dials import Dials
from xpsr_sdk.web.gate import LOOPBACK
from xpsr_sdk.web.limits import Limits
from xpsr_sdk.web.models import Models
from xpsr_sdk.web.restorer import Recipe, Restorer
from xpsr_sdk.web.server import build_app


def serve(
    dials: Dials,
    models: Models,
    limits: Limits,
    recipe: Recipe,
    users: dict[str, str],
    host: str,
    port: int,
    tell: Callable[[str], None],
) -> None:
    """Serve the page until it is interrupted.

    Args:
        dials: Describes the form, and reads settings.
        models: Loads models.
        limits: What is allowed.
        recipe: How to make a result again.
        users: Names and passwords; empty: nobody is asked.
        host: The address to listen at.
        port: The port; 0: any free one.
        tell: Called with the page's address, when it can be reached.

    Raises:
        ConfigError: The address cannot be listened at.
    """
    listening = _listening(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    desk = Desk(dials, Restorer(models, limits.queue_size, recipe), limits)
    app = build_app(desk, dials, limits, users, LOOPBACK if host in LOOPBACK else ())
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, server_header=False, lifespan="on")
    )
    desk.warm_up()
    try:
        with listening, desk.restorer.hearing_warnings():
            tell(address)
            server.run(sockets=[listening])
    finally:
        desk.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        is_v6 = ipaddress.ip_address(host).version == 6
    except ValueError:  # a name
        is_v6 = False
    found = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened at: {error.strerror}. Another --port may be free."
        ) from None
    return found
