"""The web server of the page: which address does what."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask

from xpsr_sdk import __version__
from xpsr_sdk.config import load_config
from xpsr_sdk.errors import ConfigError, ImageError, QueueFull, XPSRError
from xpsr_sdk.files.reading import parse_json
from xpsr_sdk.web.archive import packed
from xpsr_sdk.web.desk import Desk, NotThere
from xpsr_sdk.web.dials import Dials
from xpsr_sdk.web.downloads import Download, in_words, name_of, write_download
from xpsr_sdk.web.gate import Gate, Rules
from xpsr_sdk.web.gradio_api import mount_gradio
from xpsr_sdk.web.limits import Limits
from xpsr_sdk.web.uploaded_only import UploadedOnly, whole_body
from xpsr_sdk.web.uploads import TooLarge, photo_in, photos_in, received

PAGE = Path(__file__).parent / "page"
COOKIE = "xpsr-visitor"
"""The cookie that tells visitors apart. It is made by chance, and is forgotten when the browser is closed."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
STATUS: dict[type[XPSRError], int] = {NotThere: 404, ConfigError: 422, ImageError: 415, QueueFull: 429}
"""The HTTP status of each error; of others it is 500."""


def build_app(desk: Desk, dials: Dials, limits: Limits, users: dict[str, str], hosts: tuple[str, ...]) -> Gate:
    """The whole application, behind its gate.

    Args:
        desk: Does the work.
        dials: Describes the form.
        limits: What is allowed.
        users: Names and passwords; empty: nobody is asked.
        hosts: Names of the server that browsers may use; empty: any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(XPSRError, _explained)
    _add_page(app, desk, dials)
    _add_photos(app, desk, limits)
    _add_jobs(app, desk)
    _add_downloads(app, desk)
    _add_one_call(app, desk, limits)
    _add_nothing_else(app)
    of_gradio = desk.storage.root / "gradio"
    mount_gradio(app, desk, dials, limits, of_gradio)
    return Gate(
        UploadedOnly(app, of_gradio), Rules(max(limits.max_zip_mb, limits.max_file_mb) * 1e6, of_gradio, users, hosts)
    )


def _explained(_: Request, error: Exception) -> JSONResponse:
    status = next((number for kind, number in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error)}, 413 if isinstance(error, TooLarge) else status)


def _visitor(request: Request) -> str:
    """Whose request it is. Without the cookie, somebody who owns nothing."""
    return request.cookies.get(COOKIE) or secrets.token_hex(16)


def _add_page(app: FastAPI, desk: Desk, dials: Dials) -> None:
    form = dials.form()

    @app.get("/")
    def page(request: Request) -> FileResponse:
        response = FileResponse(PAGE / "index.html", media_type=TYPES[".html"])
        if COOKIE not in request.cookies:
            _remember(response, secrets.token_hex(16))
        return response

    @app.get("/page/{name}")
    def file_of_page(name: str) -> FileResponse:
        file = next((file for file in PAGE.iterdir() if file.name == name), None)
        if file is None:
            raise NotThere("There is no such file.")
        return FileResponse(file, media_type=TYPES.get(file.suffix), headers={"Cache-Control": "no-cache"})

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "waiting": desk.waiting}

    @app.get("/api/options")
    def options() -> dict[str, Any]:
        return form


def _remember(response: Any, visitor: str) -> None:
    response.set_cookie(COOKIE, visitor, httponly=True, samesite="strict")


def _add_photos(app: FastAPI, desk: Desk, limits: Limits) -> None:
    @app.post("/api/photos")
    async def upload(request: Request, name: str = "photo") -> JSONResponse:
        """The photo, or the photos of a ZIP file, that the body holds; of each that is none, its name and the error."""
        visitor = _visitor(request)
        file = await received(request, desk, limits)
        response = JSONResponse(await asyncio.to_thread(photos_in, desk, limits, visitor, file, name))
        if COOKIE not in request.cookies:
            _remember(response, visitor)
        return response

    @app.get("/api/photos")
    def photos(request: Request) -> list[dict[str, Any]]:
        return [photo.about() for photo in desk.photos(_visitor(request))]

    @app.get("/api/photos/{photo}/{form}")
    def view(request: Request, photo: str, form: str) -> FileResponse:
        if form not in ("view", "small"):
            raise NotThere("A photo has view and small.")
        return _kept(desk.view(_visitor(request), photo, small=form == "small"))

    @app.delete("/api/photos/{photo}")
    def delete(request: Request, photo: str) -> dict[str, str]:
        desk.delete_photo(_visitor(request), photo)
        return {"status": "deleted"}


def _kept(file: Path) -> FileResponse:
    """A picture that never changes, which the browser may keep, but nobody in between."""
    return FileResponse(file, headers={"Cache-Control": "private, max-age=3600, immutable"})


def _add_jobs(app: FastAPI, desk: Desk) -> None:
    @app.post("/api/jobs")
    async def restore(request: Request) -> dict[str, Any]:
        """Restore a photo: ``{"photo": ..., "settings": {...}, "title": ...}``."""
        asked = await _json(request)
        photo, title = asked.get("photo"), asked.get("title") or ""
        settings = {} if asked.get("settings") is None else asked["settings"]
        if not (isinstance(photo, str) and isinstance(settings, dict) and isinstance(title, str)):
            raise ConfigError("A job needs the id of a photo, and may have settings (an object) and a title.")
        title = title[:100].encode("utf-8", "replace").decode()
        job = await asyncio.to_thread(desk.restore, _visitor(request), photo, settings, title)
        return desk.about(job)

    @app.get("/api/jobs")
    def jobs(request: Request) -> list[dict[str, Any]]:
        return desk.jobs(_visitor(request))

    @app.get("/api/jobs/{job}")
    def job(request: Request, job: str) -> dict[str, Any]:
        return desk.about(desk.job(_visitor(request), job))

    @app.delete("/api/jobs/{job}")
    def cancel(request: Request, job: str) -> dict[str, str]:
        desk.cancel(_visitor(request), job)
        return {"status": "cancelled"}

    @app.get("/api/jobs/{job}/view")
    def view(request: Request, job: str) -> FileResponse:
        found = desk.result(_visitor(request), job)
        return _kept(next(found.photo.folder.glob(f"{found.id}-view.*")))

    @app.get("/api/jobs/{job}/small")
    def small(request: Request, job: str) -> FileResponse:
        found = desk.result(_visitor(request), job)
        return _kept(found.photo.folder / f"{found.id}-small.jpg")


async def _json(request: Request) -> dict[str, Any]:
    body = await whole_body(request.receive)
    if body is None:
        raise ConfigError("The request is too long.")
    return parse_json(body, "The request", ConfigError)


def _add_downloads(app: FastAPI, desk: Desk) -> None:
    @app.get("/api/jobs/{job}/result")
    def result(request: Request, job: str) -> FileResponse:
        found = desk.result(_visitor(request), job)
        chosen = load_config(Download, in_words(dict(request.query_params)), "The download")
        return _sent(desk, name_of(found, chosen), lambda file: write_download(found, chosen, file))

    @app.get("/api/results.zip")
    def results(request: Request, jobs: str = "") -> FileResponse:
        """The results of several jobs, whose ids are separated by commas."""
        visitor = _visitor(request)
        found = [desk.result(visitor, job) for job in jobs.split(",")]
        chosen = load_config(Download, in_words(dict(request.query_params)), "The download")

        def write(file: Path) -> None:
            packed(((name_of(each, chosen, True), _writer(each, chosen)) for each in found), file)

        return _sent(desk, "restored.zip", write)


def _writer(job: Any, chosen: Download) -> Callable[[Path], None]:
    return lambda file: write_download(job, chosen, file)


def _sent(desk: Desk, name: str, write: Callable[[Path], None]) -> FileResponse:
    """A file that is made for this answer, and deleted after it."""
    folder = desk.storage.new_folder()
    file = folder / f"download{Path(name).suffix}"
    write(file)

    return FileResponse(file, filename=name, background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True))


def _add_one_call(app: FastAPI, desk: Desk, limits: Limits) -> None:
    @app.post("/api/restore")
    async def restore_at_once(request: Request, name: str = "photo") -> FileResponse:
        """The restored photo that the body holds; settings are in the query. Nothing of it is kept."""
        visitor, query = secrets.token_hex(16), dict(request.query_params)
        query.pop("name", None)
        chosen = load_config(Download, in_words(query), "The download")
        settings = {key: value for key, value in query.items() if key not in Download.model_fields}
        file = await received(request, desk, limits)
        photo = await asyncio.to_thread(photo_in, desk, visitor, file, name)
        try:
            job = await asyncio.to_thread(desk.restore, visitor, photo.id, settings)
            await _ended(desk, visitor, job.id)
            found = desk.result(visitor, job.id)
            return await asyncio.to_thread(
                _sent, desk, name_of(found, chosen), lambda file: write_download(found, chosen, file)
            )
        finally:
            desk.delete_photo(visitor, photo.id)


def _add_nothing_else(app: FastAPI) -> None:
    """All other requests for the page and its API, which else gradio would answer, in a form of its own."""
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

    @app.api_route("/api/{rest:path}", methods=methods)
    @app.api_route("/page/{rest:path}", methods=methods)
    def nothing(request: Request, rest: str) -> None:
        raise NotThere(f"There is nothing at this address for {request.method}.")


async def _ended(desk: Desk, visitor: str, job_id: str) -> None:
    """Wait until a job has its result.

    Raises:
        XPSRError: It failed.
    """
    job = desk.job(visitor, job_id)
    await asyncio.wrap_future(job.end)
    if job.state != "done":
        raise ImageError(job.error or "It was cancelled.")
