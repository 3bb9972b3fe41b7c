"""The page's API for ``gradio_client``: the functions ``/restore`` and ``/options`` of a gradio server.

The page itself is written by hand and not with gradio's blocks: it paints at once, works with the keyboard alone, and
finds its photos again when it is loaded anew.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xpsr_sdk.config import load_config
from xpsr_sdk.errors import XPSRError
from xpsr_sdk.web.dials import Dials
from xpsr_sdk.web.downloads import Download, in_words, name_of, write_download
from xpsr_sdk.web.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from xpsr_sdk.web.desk import Desk

# gradio reads these when it is imported: nothing is told to its makers, and it asks for no newer version of itself.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def mount_gradio(app: FastAPI, desk: Desk, dials: Dials, limits: Limits, folder: Path) -> None:
    """Add gradio's server to the application, for whatever address the application does not answer itself.

    Args:
        app: The application.
        desk: Does the work.
        dials: Describes the settings.
        limits: What is allowed.
        folder: Where gradio keeps files.
    """
    folder.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    import gradio

    async def restore(photo: str | None, settings: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        if not photo:
            raise gradio.Error("A photo is needed.", print_exception=False)
        visitor, given = secrets.token_hex(16), dict(settings or {})
        chosen = load_config(Download, in_words(given), "The download")
        given = {name: value for name, value in given.items() if name not in Download.model_fields}
        own = None
        try:
            copy = desk.storage.folder_for_photo() / "photo"
            shutil.copyfile(photo, copy)
            own = desk.add_photo(visitor, copy, Path(photo).name)
            job = await asyncio.to_thread(desk.restore, visitor, own.id, given)
            await asyncio.wrap_future(job.end)
            if job.state != "done":
                raise gradio.Error(job.error or "It was cancelled.", print_exception=False)
            file = folder / secrets.token_hex(16) / name_of(job, chosen)
            file.parent.mkdir()
            await asyncio.to_thread(write_download, job, chosen, file)
            return str(file), job.details | {"notes": job.notes}
        except XPSRError as error:
            raise gradio.Error(str(error), print_exception=False) from None
        finally:
            if own:
                desk.delete_photo(visitor, own.id)

    form = dials.form()
    with gradio.Blocks(analytics_enabled=False, delete_cache=(60, round(60 * limits.keep_minutes))) as blocks:
        photo, settings = gradio.File(label="photo"), gradio.JSON(label="settings")
        result, details = gradio.File(label="result"), gradio.JSON(label="details")
        button = gradio.Button()
        button.click(restore, [photo, settings], [result, details], api_name="restore", concurrency_limit=None)
        button.click(lambda: form, None, details, api_name="options")
    blocks.queue(max_size=limits.queue_size)
    gradio.mount_gradio_app(
        app, blocks, "/", max_file_size=round(limits.max_file_mb * 1e6), run_history=False, show_error=True
    )
