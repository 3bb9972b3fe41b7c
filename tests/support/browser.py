"""A browser for the tests of pages: the Chromium of the system."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The browser, if there is one."""
WHY_NOT = "there is no Chromium: apt-get install chromium (or install Google Chrome), and run the tests again"


@contextmanager
def browser() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def opened(running: Any, address: str, **options: Any) -> Iterator[Any]:
    """A file in a window of its own; an error, a dialog, or a request to a network fails the test.

    Args:
        running: What ``browser`` gives.
        address: Its URL.
        options: Of the window, as ``new_context`` of Playwright takes them, for instance ``viewport``.
    """
    context, complaints = running.new_context(**options), list[str]()
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    yield page
    context.close()
    assert not complaints


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong with a page: the rule, and the first element."""
    from axe_playwright_python.sync_playwright import Axe

    return [f"{found['id']}: {found['nodes'][0]['html']}" for found in Axe().run(page).response["violations"]]
