"""The page's API: what it takes, what it gives, and to whom."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.support import tiny, web_parts
from tests.support.pages import blocks
from tests.support.website import Site, running, without_what_gradio_leaves
from xpsr_sdk import PipelineConfig
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.cli.web import options_of_upscale
from xpsr_sdk.web.files import PREFIX

HELD = {"scale": 1, "sampler": "held"}


class Visitor(httpx.Client):
    """Somebody with a browser."""

    def __init__(self, site: Site) -> None:
        super().__init__(base_url=site.address, timeout=60)

    def __enter__(self) -> Visitor:
        super().__enter__()
        self.get("/")  # which gives the cookie
        return self

    def upload(self, content: bytes | Path, name: str = "photo.png") -> Any:
        body = content.read_bytes() if isinstance(content, Path) else content
        return self.post("/api/photos", params={"name": name}, content=body)

    def ask(self, photo: str, **settings: Any) -> Any:
        return self.post("/api/jobs", json={"photo": photo, "settings": settings})

    def restore(self, content: bytes | Path, name: str = "photo.png", **settings: Any) -> dict[str, Any]:
        job = self.ask(self.upload(content, name).json()[0]["id"], **settings).json()
        return self.ended(job["id"])

    def ended(self, job: str) -> dict[str, Any]:
        return self.until(job, "done", "failed", "cancelled")

    def until(self, job: str, *states: str) -> dict[str, Any]:
        for _ in range(600):
            about: dict[str, Any] = self.get(f"/api/jobs/{job}").json()
            if about["state"] in states:
                return about
            time.sleep(0.02)
        raise AssertionError(about)


@pytest.fixture
def visitor(site: Site) -> Iterator[Visitor]:
    with Visitor(site) as visitor:
        yield visitor


def test_a_photo_is_restored_as_the_command_line_that_it_names_does(
    visitor: Visitor, photo: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = {"name": "dpmpp-2m", "scheduler": "x"}
    assert visitor.ask(visitor.upload(photo).json()[0]["id"], sampler=sampler).status_code == 422
    job = visitor.restore(photo, scale=2, fidelity=0.25, prompt="a boat", low_prompt="sharp", sampler="dpmpp-2m")
    assert job["state"] == "done"
    words = shlex.split(job["result"]["command"])
    assert words[:3] == ["xpsr", "upscale", "photo.png"]
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(photo.read_bytes())
    words[words.index("--model") + 1] = str(tiny_model)
    words = [word for word in words if word not in ("--prompt-provider", "counting")]
    assert CliRunner().invoke(xpsr, [*words[1:], "--device", "cpu"]).exit_code == 0
    content = visitor.get(f"/api/jobs/{job['id']}/result").content
    assert tiny.same(Image.open("photo-restored.png"), Image.open(io.BytesIO(content)))
    program = job["result"]["python"].replace("model='tiny', prompt_provider='counting'", f"model={str(tiny_model)!r}")
    Path("photo-restored.png").unlink()
    exec(program, {})
    assert tiny.alike(Image.open("photo-restored.png"), Image.open(io.BytesIO(content)))


def test_every_dial_is_an_option_of_the_command_line_with_the_range_of_its_field(visitor: Visitor) -> None:
    dials = {dial["name"]: dial for dial in visitor.get("/api/options").json()["dials"]}
    flags = options_of_upscale()
    assert dials.keys() <= flags.keys()
    schema = PipelineConfig.model_json_schema()["properties"]
    assert dials["fidelity"]["help"] == schema["fidelity"]["description"].replace(" None: the model's default.", "")
    assert (dials["fidelity"]["least"], dials["fidelity"]["most"]) == (0, 1)
    assert dials["num_inference_steps"]["label"] == "Steps"
    assert dials["color"]["choices"] == ["none", "adain", "wavelet", "lab"]
    assert dials.keys().isdisjoint({"max_megapixels", "max_result_megapixels", "tile_batch", "vae_rows"})


def test_plugins_appear_with_the_options_that_are_no_texts(visitor: Visitor) -> None:
    kinds = {part["name"]: part for part in visitor.get("/api/options").json()["parts"]}
    held = next(choice for choice in kinds["sampler"]["choices"] if choice["name"] == "held")
    assert [option["name"] for option in held["options"]] == ["strength"]
    assert (held["options"][0]["least"], held["options"][0]["most"], held["options"][0]["default"]) == (0, 1, 0.5)
    assert [choice["name"] for choice in kinds["prompt_provider"]["choices"]] == ["counting"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scale": 9}, "scale"),
        ({"scal": 2}, "Did you mean 'scale'"),
        ({"model": "/etc"}, "no model '/etc'"),
        ({"model": ["nano"]}, "no model"),
        ({"checkpoint": "../x"}, "no checkpoint"),
        ({"max_megapixels": 1000}, "cannot be set here"),
        ({"sampler": {"name": "held", "secret": "x"}}, "'secret' of held cannot be set here"),
        ({"upscaler": {"name": "spandrel", "path": "/etc/passwd"}}, "no upscaler"),
        ({"prompt_provider": "openai"}, "no prompt provider"),
        ({"prompt": "x" * 5000}, "5000 characters"),
        ({"scale": 8, "width": 100}, "each say how large"),
        ({"width": 100000}, "8 times is the most"),
    ],
)
def test_a_wrong_setting_is_explained(visitor: Visitor, photo: Path, settings: dict[str, Any], reason: str) -> None:
    answer = visitor.ask(visitor.upload(photo).json()[0]["id"], **settings)
    assert answer.status_code in (415, 422)
    assert reason in answer.json()["error"]


def test_settings_without_effect_are_left_out_without_a_model(visitor: Visitor, photo: Path) -> None:
    job = visitor.restore(photo, model="none", upscaler="bicubic", scale=2, num_inference_steps=7, sampler="held")
    assert job["result"]["command"] == (
        "xpsr upscale photo.png -o photo-restored.png --scale 2.0 --model none --upscaler bicubic"
    )


@pytest.mark.parametrize("body", [b"[]", b"{}", b"\xff", b'{"photo": 3}', b"[" * 10000])
def test_a_request_that_is_no_job_is_refused(visitor: Visitor, body: bytes) -> None:
    assert visitor.post("/api/jobs", content=body).status_code in (404, 422)


def test_half_characters_harm_nobody(visitor: Visitor, photo: Path) -> None:
    photo_id = visitor.upload(photo).json()[0]["id"]
    half = b'"\\ud800"'
    body = b'{"photo": "%s", "settings": {"low_prompt": %s}}' % (photo_id.encode(), half)
    answer = visitor.post("/api/jobs", content=body)
    assert (answer.status_code, "half of a character" in answer.json()["error"]) == (422, True)
    body = b'{"photo": "%s", "title": %s}' % (photo_id.encode(), half)
    assert visitor.post("/api/jobs", content=body).json()["title"] == "?"
    assert len(visitor.get("/api/jobs").json()) == 1


def test_settings_that_are_no_object_are_refused(visitor: Visitor, photo: Path) -> None:
    photo_id = visitor.upload(photo).json()[0]["id"]
    for settings in ([], "", 0):
        answer = visitor.post("/api/jobs", json={"photo": photo_id, "settings": settings})
        assert answer.status_code == 422
        assert "settings (an object)" in answer.json()["error"]


def test_files_that_are_no_photos_are_refused_and_not_kept(visitor: Visitor, site: Site) -> None:
    before = site.desk.storage.used()
    assert visitor.upload(b"hello", "a.png").status_code == 415
    assert "a.png" in visitor.upload(b"hello", "a.png").json()["error"]
    assert visitor.upload(bytes(2_000_000)).status_code == 413
    assert visitor.upload(Path("/dev/null")).status_code == 415
    Image.new("L", (1100, 1000)).save(file := io.BytesIO(), "PNG")
    assert "1.1 megapixels" in visitor.upload(file.getvalue()).json()["error"]
    assert site.desk.storage.used() == before
    assert visitor.get("/api/photos").json() == []


def test_the_result_is_refused_where_it_would_be_too_large(visitor: Visitor) -> None:
    tiny.photo(400, 300).save(file := io.BytesIO(), "PNG")
    answer = visitor.ask(visitor.upload(file.getvalue()).json()[0]["id"], scale=5)
    assert answer.status_code == 415
    assert "3.0 megapixels: 2 is the most here" in answer.json()["error"]


def test_a_job_is_cancelled_while_it_is_restored_and_others_go_on(visitor: Visitor, photo: Path) -> None:
    web_parts.GO.clear()
    photo_id = visitor.upload(photo).json()[0]["id"]
    first, second, third = (visitor.ask(photo_id, **HELD).json() for _ in range(3))
    visitor.until(first["id"], "restoring")
    assert [job["ahead"] for job in visitor.get("/api/jobs").json()] == [0, 1, 2]
    visitor.delete(f"/api/jobs/{second['id']}")
    visitor.delete(f"/api/jobs/{first['id']}")
    assert visitor.ended(first["id"])["state"] == "cancelled"
    assert visitor.until(third["id"], "restoring")["ahead"] == 0  # the first has left the networks, which are held
    web_parts.GO.set()
    assert visitor.ended(third["id"])["state"] == "done"
    visitor.delete(f"/api/jobs/{third['id']}")
    assert visitor.get(f"/api/jobs/{third['id']}").status_code == 404


def test_prompts_that_are_given_again_are_not_asked_for(visitor: Visitor, photo: Path) -> None:
    job = visitor.restore(photo, scale=1)
    assert web_parts.ASKED == [["high", "low"]]
    said = job["result"]["prompts"]
    assert said["prompt"]["text"] == web_parts.CAPTION
    again = visitor.restore(photo, scale=1, prompt=said["prompt"]["text"], low_prompt="sharp")
    assert again["result"]["prompts"]["low_prompt"] == {"text": "sharp", "source": "user"}
    assert len(web_parts.ASKED) == 1


def test_nobody_gets_anothers_photos_and_results(site: Site, visitor: Visitor, photo: Path) -> None:
    job = visitor.restore(photo, scale=1)
    with Visitor(site) as stranger:
        assert stranger.get("/api/photos").json() == stranger.get("/api/jobs").json() == []
        for path in (
            f"jobs/{job['id']}",
            f"jobs/{job['id']}/view",
            f"jobs/{job['id']}/result",
            f"jobs/{job['id']}/small",
        ):
            assert stranger.get(f"/api/{path}").status_code == 404
        assert stranger.get(f"/api/photos/{job['photo']}/view").status_code == 404
        assert stranger.get("/api/results.zip", params={"jobs": job["id"]}).status_code == 404
        assert stranger.delete(f"/api/jobs/{job['id']}").status_code == 404
        assert stranger.delete(f"/api/photos/{job['photo']}").status_code == 404
        assert stranger.ask(job["photo"]).status_code == 404
    assert visitor.get(f"/api/jobs/{job['id']}/view").status_code == 200


def test_thirty_visitors_at_once_get_their_own_results(site: Site) -> None:
    def visit(number: int) -> tuple[int, ...]:
        tiny.photo(30 + number, 20).save(file := io.BytesIO(), "PNG")
        content = file.getvalue()
        with Visitor(site) as visitor:
            for bad in (b"", b"x" * 1000, b"PK\x03\x04zz"):
                assert visitor.upload(bad).status_code == 415
            cut = visitor.restore(content[: len(content) // 2], model="none", upscaler="bicubic", scale=2)
            assert (cut["state"], "damaged" in cut["error"]) == ("failed", True)
            job = visitor.restore(content, model="none", upscaler="bicubic", scale=2)
            assert len(visitor.get("/api/jobs").json()) == 2
            with Image.open(io.BytesIO(visitor.get(f"/api/jobs/{job['id']}/result").content)) as image:
                return image.size

    with ThreadPoolExecutor(30) as visitors:
        assert list(visitors.map(visit, range(30))) == [(60 + 2 * number, 40) for number in range(30)]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd",
        "/gradio_api/file=http://example.com/",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/page/../server.py",
        "/page/..%2Fserver.py",
        "/page/%2e%2e/server.py",
        "/api/photos/..%2F..%2Fx/view",
        "/gradio_api/proxy=http://example.com/",
        "/gradio_api/deep_link",
        "/gradio_api/runs",
        "/monitoring",
        "/docs",
        "/openapi.json",
        "/theme.css",
    ],
)
def test_there_is_nothing_at_other_addresses(site: Site, path: str) -> None:
    raw = httpx.URL(site.address).copy_with(raw_path=path.encode())
    answer = httpx.get(raw)
    assert answer.status_code == 404
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize("path", ["/api/results.zip", "/api/photos/{}/large", "/api/jobs/{}/small"])
def test_what_is_missing_is_an_error_as_all_others(visitor: Visitor, photo: Path, path: str) -> None:
    answer = visitor.get(path.format(visitor.upload(photo).json()[0]["id"]))
    assert (answer.status_code, answer.json().keys()) == (404, {"error"})


def test_a_wrong_method_is_an_error_as_all_others(site: Site) -> None:
    assert httpx.get(f"{site.address}/api/restore").json() == {"error": "There is nothing at this address for GET."}


@pytest.mark.parametrize(
    "given",
    [
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"path": "http://127.0.0.1/x.png", "meta": {"_type": "gradio.FileData"}},
        {"path": "EXAMPLE", "meta": {"_type": "gradio.FileData"}},
        {"path": "GRADIO/../../../etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"a": [{"path": "/etc/passwd"}]},
    ],
)
def test_gradio_restores_no_file_that_was_not_uploaded(site: Site, given: dict[str, Any], photo: Path) -> None:
    text = json.dumps({"data": [given, {}]}).replace("EXAMPLE", str(photo))
    text = text.replace("GRADIO", str(site.desk.storage.root / "gradio"))
    for place in ("/gradio_api/call/restore", "/gradio_api/queue/join"):
        answer = httpx.post(site.address + place, content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code == 403


@pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting':DeprecationWarning")
def test_gradio_client_restores_photos(site: Site, photo: Path) -> None:
    from gradio_client import Client, exceptions, handle_file

    client = Client(site.address, verbose=False, analytics_enabled=False, download_files=str(photo.parent))
    settings = {"scale": 2, "seed": 1, "format": "webp", "sampler": "ddim"}
    file, details = client.predict(handle_file(str(photo)), settings, api_name="/restore")
    with Image.open(file) as image:
        assert (image.format, image.size) == ("WEBP", (80, 64))
    assert details["seed"] == 1
    assert "--sampler ddim" in details["command"]
    assert client.predict(api_name="/options")["models"][0]["name"] == "tiny"
    with pytest.raises(exceptions.AppError, match="Did you mean 'scale'"):
        client.predict(handle_file(str(photo)), {"scal": 2}, api_name="/restore")


def test_one_request_restores_a_photo_and_keeps_nothing(site: Site, photo: Path) -> None:
    query = {"name": "boat.png", "scale": "2", "format": "jpg", "model": "none", "upscaler": "bicubic"}
    answer = httpx.post(f"{site.address}/api/restore", params=query, content=photo.read_bytes(), timeout=60)
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", (80, 64))
    assert 'filename="boat-restored.jpg"' in answer.headers["content-disposition"]
    wrong = httpx.post(f"{site.address}/api/restore", params={"scale": "nine"}, content=photo.read_bytes())
    assert wrong.status_code == 422
    assert "scale" in wrong.json()["error"]


def test_a_zip_file_is_unpacked_with_care_and_results_come_back_in_one(visitor: Visitor, photo: Path) -> None:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("trip/one.png", photo.read_bytes())
        archive.writestr("two.png", photo.read_bytes())
        archive.writestr("../../three.png", photo.read_bytes())
        archive.writestr("__MACOSX/._one.png", b"x")
        archive.writestr("bad.png", b"x")
        archive.writestr("notes.txt", b"x")
    photos = visitor.upload(file.getvalue(), "photos.zip").json()
    bad = photos.pop()
    assert [each["name"] for each in photos] == ["trip/one.png", "two.png"]
    assert (bad["name"], "bad.png is not an image" in bad["error"]) == ("bad.png", True)
    plain = {"model": "none", "upscaler": "bicubic", "scale": 1}
    jobs = [visitor.ended(visitor.ask(each["id"], **plain).json()["id"])["id"] for each in [*photos, photos[0]]]
    answer = visitor.get("/api/results.zip", params={"jobs": ",".join(jobs), "format": "webp"})
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert names == ["trip/one-restored.webp", "two-restored.webp", "trip/one-restored-2.webp"]


@pytest.mark.parametrize("content", [b"PK\x03\x04" + b"x" * 40, b"PK\x03\x04"])
def test_a_damaged_zip_file_is_refused(visitor: Visitor, content: bytes) -> None:
    answer = visitor.upload(content, "photos.zip")
    assert answer.status_code == 415
    assert "ZIP" in answer.json()["error"]


def test_a_zip_file_whose_content_cannot_be_unpacked_is_refused(visitor: Visitor, photo: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2000))
    content = bytearray(file.getvalue())
    start = 30 + len("a.png")  # where the compressed bytes begin
    content[start : start + 4] = b"\xff" * 4
    answer = visitor.upload(bytes(content), "a.zip")
    assert (answer.status_code, answer.json()) == (415, {"error": "The ZIP file cannot be read: it is damaged."})


def test_a_photo_that_turns_out_to_be_damaged_is_named_as_its_owner_does(visitor: Visitor, photo: Path) -> None:
    cut = photo.read_bytes()[:-60]
    found = visitor.upload(cut, "holiday.png").json()[0]["id"]
    answer = visitor.get(f"/api/photos/{found}/small")
    assert answer.json() == {"error": "holiday.png is damaged: it cannot be shown."}


def test_a_photo_that_is_too_small_is_named_as_its_owner_does(visitor: Visitor) -> None:
    content = io.BytesIO()
    tiny.photo(40, 3).save(content, "PNG")
    found = visitor.upload(content.getvalue(), "strip.png").json()[0]["id"]
    assert visitor.ask(found, scale=2).json()["error"].startswith("strip.png is 40x3: photos need at least 16 pixels")


def test_an_address_with_a_zero_byte_is_not_there(visitor: Visitor) -> None:
    assert visitor.get("/gradio_api/file=%00").status_code == 404


def test_a_zip_file_that_lies_about_its_size_is_refused(visitor: Visitor) -> None:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(5_000_000))
    assert "1 MB" in visitor.upload(file.getvalue(), "bomb.zip").json()["error"]


def test_metadata_and_transparency_are_kept_as_chosen(visitor: Visitor) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a boat"
    exif[0x0112] = 6
    image = tiny.photo(40, 32).convert("RGBA")
    image.putalpha(99)
    image.save(file := io.BytesIO(), "PNG", exif=exif)
    job = visitor.restore(file.getvalue(), model="none", upscaler="bicubic", scale=2)
    assert (job["result"]["width"], job["result"]["height"]) == (64, 80)  # it was turned upright
    result = f"/api/jobs/{job['id']}/result"
    assert Image.open(io.BytesIO(visitor.get(result).content)).getexif()[0x010E] == "a boat"
    stripped = visitor.get(result, params={"metadata": "strip", "format": "webp", "quality": 50})
    with Image.open(io.BytesIO(stripped.content)) as image:
        assert image.mode == "RGBA"
        assert 0x010E not in image.getexif()
    assert visitor.get(result, params={"format": "gif"}).status_code == 422


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\x\\y.png", "x/y.png"),
        ("/", "photo"),
        ("<script>.png", "<script>.png"),
        ("a\u202eb\n.png", "ab.png"),
        (".hidden", "hidden"),
    ],
)
def test_names_lead_nowhere(visitor: Visitor, photo: Path, name: str, shown: str) -> None:
    assert visitor.upload(photo, name).json()[0]["name"] == shown


def test_other_sites_may_neither_send_nor_read(site: Site, visitor: Visitor, photo: Path) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert visitor.post("/api/photos", content=photo.read_bytes(), headers=headers).status_code == 403
    page = visitor.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "access-control-allow-origin" not in page.headers
    cookie = httpx.get(site.address).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_a_password_is_asked_for_everywhere_but_at_the_health_address(tiny_model: Path) -> None:
    with running(["none"], users={"ann": "s3cret"}) as site:
        for path in ("/", "/api/options", "/page/app.js", "/config", "/gradio_api/info", "/api/jobs"):
            assert httpx.get(site.address + path).status_code == 401
            assert httpx.get(site.address + path, auth=("ann", "wrong")).status_code == 401
            assert httpx.get(site.address + path, auth=("bob", "")).status_code == 401
            assert httpx.get(site.address + path, auth=("ann", "s3cret")).status_code == 200
        assert httpx.get(f"{site.address}/health").json()["status"] == "ok"


def test_limits_of_the_queue_of_time_and_of_disk_space(tiny_model: Path, photo: Path) -> None:
    with (
        running([str(tiny_model)], photos_each=1, minutes_each=0.01, max_disk_gb=1e-4) as site,
        Visitor(site) as visitor,
    ):
        web_parts.GO.clear()
        photo_id = visitor.upload(photo).json()[0]["id"]
        job = visitor.ask(photo_id, **HELD).json()
        refused = visitor.ask(photo_id, **HELD)
        assert (refused.status_code, refused.json()["error"]) == (
            429,
            "1 of your photos are waiting, which is the most.",
        )
        assert "longer than 0.01 minutes" in visitor.ended(job["id"])["error"]
        (site.desk.storage.root / "filler").write_bytes(bytes(200_000))
        assert "space of the server is used up" in visitor.upload(photo).json()["error"]


def test_files_leave_after_a_while_and_at_the_end(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr_sdk.web.desk.SWEEP_SECONDS", 0.05)
    with running(["none"], keep_minutes=0.05) as site, Visitor(site) as visitor:
        root = site.desk.storage.root
        assert root.name.startswith(PREFIX)
        visitor.restore(photo, model="none", upscaler="bicubic", scale=1)
        deadline = time.monotonic() + 20
        while visitor.get("/api/photos").json() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert visitor.get("/api/jobs").json() == []
        assert [file for file in root.rglob("*") if file.is_file() and "gradio" not in file.parts] == []
    assert not root.exists()


def test_memory_that_runs_out_is_told(
    site: Site, visitor: Visitor, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor.restore(photo, scale=1)
    loaded = next(pipeline for pipeline in site.models._loaded.values() if pipeline.unet)
    forward, failed = loaded.unet.forward, []

    def fails_once(*arguments: Any, **options: Any) -> Any:
        if not failed:
            failed.append(True)
            raise MemoryError
        return forward(*arguments, **options)

    monkeypatch.setattr(loaded.unet, "forward", fails_once)
    with site.desk.restorer.hearing_warnings():  # again, within those of pytest
        job = visitor.restore(photo, scale=4)
    assert (job["state"], job["error"]) == ("done", "")
    assert any(note.startswith("Out of memory: trying again") for note in job["notes"])


def test_models_and_checkpoints_of_a_folder_can_be_chosen_by_name(
    tiny_model: Path, photo: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "mine")
    (tmp_path / "other.safetensors").write_bytes(b"no model")
    (tmp_path / "tuned" / "controlnet").mkdir(parents=True)
    with running(["none"], folder=tmp_path, warm_models=1) as site, Visitor(site) as visitor:
        form = visitor.get("/api/options").json()
        assert [model["name"] for model in form["models"]] == ["none", "mine"]
        assert form["checkpoints"] == ["tuned"]
        assert visitor.restore(photo, scale=1, model="mine", low_prompt="", prompt="")["state"] == "done"
        broken = visitor.restore(photo, scale=1, model="mine", checkpoint="tuned")
        assert broken["state"] == "failed"
        assert "does not exist" in broken["error"]


@pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting':DeprecationWarning")
def test_the_examples_of_the_docs_work(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = {
        block.title: block.text for block in blocks(Path("docs/guides/web.md")) if block.language in ("sh", "py")
    }
    monkeypatch.chdir(tmp_path)
    tiny.photo(40, 32).save("photo.jpg")
    with running([str(tiny_model)]) as site:
        told = {title: text.replace("http://127.0.0.1:7860", site.address) for title, text in examples.items()}
        with without_what_gradio_leaves():
            exec(told["gradio_client"].replace("Client(", "Client(verbose=False, src="), {})
        if not shutil.which("curl") or sys.platform == "win32":
            pytest.skip("there is no curl, or no shell that reads the examples")
        subprocess.run(told["One request"], shell=True, check=True)
        with Image.open("restored.webp") as image:
            assert image.size == (80, 64)
        uploads, asks, lists = told["Step by step"].splitlines()
        uploaded = subprocess.run(uploads, shell=True, check=True, capture_output=True).stdout
        asks = asks.replace("ID", json.loads(uploaded)[0]["id"])
        job = json.loads(subprocess.run(asks, shell=True, check=True, capture_output=True).stdout)
        listed = json.loads(subprocess.run(lists, shell=True, check=True, capture_output=True).stdout)
        assert [each["id"] for each in listed] == [job["id"]]
