"""Opens pages in Chromium, for tests of what a reader sees and does; such tests are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright. The test is skipped if one of both is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"needs a browser: none of {', '.join(PROGRAMS)} is installed")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=program, args=["--no-sandbox"])


@contextmanager
def opened(running: Any, address: str, **options: Any) -> Iterator[Any]:
    """A page in a window of its own; what it wrote as an error or showed as a dialog fails the test.

    Args:
        running: What ``browser`` gives.
        address: Its URL.
        options: Of the window, as ``new_context`` of Playwright takes them, for instance ``viewport``.
    """
    context, complaints = running.new_context(**options), list[str]()
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    yield page
    context.close()
    assert not complaints


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong with a page: the rule, and the first element. The test is skipped without axe-core."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    return [f"{found['id']}: {found['nodes'][0]['html']}" for found in axe.run(page).response["violations"]]
