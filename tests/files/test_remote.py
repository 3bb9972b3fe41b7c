"""Files by URL, in memory and in a real S3 server of this machine that refuses now and then."""

from __future__ import annotations

import itertools
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support import tiny
from xpsr_sdk import ConfigError, ImageError, Registry, XPSRError
from xpsr_sdk.builtin.stored import StoredPrompts
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.data.files import find_images
from xpsr_sdk.data.images import read_image, sha256_of, write_image
from xpsr_sdk.files import remote
from xpsr_sdk.files.reading import read_bytes
from xpsr_sdk.files.remote import RemotePath, place
from xpsr_sdk.files.writing import write_whole
from xpsr_sdk.preparation.prepare import prepare_pairs, prepare_shards
from xpsr_sdk.prompts.caption_folder import caption_folder
from xpsr_sdk.prompts.store import PromptStore
from xpsr_sdk.training.config import DataSection
from xpsr_sdk.training.data import TrainingData

fsspec = pytest.importorskip("fsspec")
OPTIONS: dict[str, Any] = {"prompt_provider": {"name": "fixed", "high": "a house"}, "registry": Registry([])}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in the memory of this process."""
    yield place("memory://test")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a new bucket. The server answers every seventh request with 503."""
    boto3 = pytest.importorskip("boto3")
    server_of = pytest.importorskip("moto.server")
    monkeypatch.setattr(server_of, "DomainDispatcherApplication", unreliable(server_of.DomainDispatcherApplication))
    server = server_of.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-word", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="photos")
    yield place("s3://photos/set")
    server.stop()


def unreliable(application: Callable[..., Any]) -> Callable[..., Any]:
    requests = itertools.count(1)

    def make(*arguments: Any, **options: Any) -> Callable[..., Any]:
        inner = application(*arguments, **options)

        def answer(environ: Any, start: Any) -> Any:
            if next(requests) % 7 == 0:
                start("503 Service Unavailable", [("Content-Type", "text/plain")])
                return [b"busy"]
            return inner(environ, start)

        return answer

    return make


def filled(folder: Path) -> Path:
    for seed in range(3):
        write_image(tiny.photo(64, 64, seed), folder / f"{seed}.png")
    write_image(tiny.photo(64, 64, 9), folder / "more" / "a.jpg")
    return folder


def test_urls_are_paths() -> None:
    path = place("s3://bucket/photos/a.png")
    assert str(path) == os.fspath(path) == "s3://bucket/photos/a.png"
    assert (path.name, path.suffix, str(path.parent)) == ("a.png", ".png", "s3://bucket/photos")
    assert str(path.parent / "more" / "b.tar") == "s3://bucket/photos/more/b.tar"
    assert str(path.relative_to(path.parent)) == "a.png"
    assert pickle.loads(pickle.dumps(path)) == path
    assert place(path) is path
    assert str(place("s3:/bucket/photos/a.png")) == str(path)
    assert place("file:///tmp/a.png") == Path("/tmp/a.png")
    assert not isinstance(place("C:/photos"), RemotePath)
    assert not isinstance(place("photos"), RemotePath)


def test_a_url_with_a_password_is_refused_without_quoting_it() -> None:
    with pytest.raises(ConfigError, match="credentials belong into the environment") as caught:
        place("s3://me:secret@bucket/photos")
    assert "secret" not in str(caught.value)


def test_an_unknown_kind_of_store_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"nosuch://a/b cannot be reached: .* no kind of store with the name 'nosuch'"
    ):
        place("nosuch://a/b").exists()


def test_files_in_memory_are_read_and_written(memory: Path) -> None:
    folder = filled(memory)
    names = [str(photo.relative_to(folder)) for photo in find_images(folder)]
    assert names == ["0.png", "1.png", "2.png", "more/a.jpg"]
    assert read_image(folder / "0.png").image.size == (64, 64)
    assert len(sha256_of(folder / "0.png")) == 64
    with pytest.raises(ImageError, match=r"memory://test/none\.png does not exist"):
        read_image(folder / "none.png")

    def fails(file: Any) -> None:
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(folder / "half.png", fails)
    assert not (folder / "half.png").exists()
    with pytest.raises(ImageError, match="is refused as too large"):
        read_bytes(folder / "0.png", ImageError, largest=10)


def test_what_is_refused_for_ever_is_an_error_of_the_system(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    calls = []

    def refuse(self: object, key: str, **options: object) -> None:
        calls.append(key)
        raise TimeoutError("busy")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", refuse)
    with pytest.raises(ImageError, match=r"memory://test/a\.png cannot be read: .*busy"):
        read_image(memory / "a.png")
    assert len(calls) == 3
    with pytest.raises(XPSRError, match=r"^The store of a URL cannot be used: TimeoutError: busy$"):
        (memory / "b.png").stat()

    def lose(self: object, key: str, **options: object) -> None:
        raise ClientFailure("Unable to locate credentials")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", lose)
    with pytest.raises(XPSRError, match=r"^The store of a URL cannot be used: Unable to locate credentials$"):
        (memory / "b.png").stat()


class ClientFailure(Exception):
    """What the client of a store raises."""


def works_as_here(folder: Path, here: Path) -> None:
    """Photos of a remote folder are described, prepared, restored and trained on as those of this machine are."""
    filled(folder)
    filled(here / "set")
    made = []
    for photos, output in ((here / "set", here / "shards"), (folder, folder.parent / "shards")):
        report = caption_folder(photos, **OPTIONS)
        assert (report.described, report.failed) == (4, {})
        assert caption_folder(photos, **OPTIONS).known == 4
        prepared = prepare_shards(photos, output, photos_a_shard=3, degradation="bicubic", **OPTIONS)
        assert prepare_shards(photos, output, photos_a_shard=3, degradation="bicubic", **OPTIONS) == prepared
        made.append({file.name: file.read_bytes() for file in output.glob("*.tar")})
        assert PromptStore(photos / "prompts.sqlite").text_of(photos / "0.png", "high") == "a house"
        pairs = output.with_name("pairs")
        prepared = prepare_pairs(photos, pairs, degradation="bicubic", **OPTIONS)
        seen: list[tuple[int, int]] = []
        again = prepare_pairs(
            photos, pairs, degradation="bicubic", progress=lambda *told, seen=seen: seen.append(told), **OPTIONS
        )
        assert (prepared, seen) == (again, [(4, 4)])
        made[-1] |= {str(file.relative_to(pairs)): file.read_bytes() for file in find_images(pairs)}
    assert made[0] == made[1]
    data = TrainingData(DataSection(folders=(folder.parent / "shards",), crop=32, hr_as_input=0), 0, Registry([]))
    assert len(data) == 4
    assert data.sample(0).high == "a house"
    data = TrainingData(DataSection(folders=(folder.parent / "pairs",), crop=32, hr_as_input=0), 0, Registry([]))
    assert len(data) == 4
    stored = StoredPrompts().describe([read_image(folder / "more" / "a.jpg")], ["high"])
    assert stored[0].high == "a house"
    measured_as_here(folder, here / "set")


def measured_as_here(folder: Path, here: Path) -> None:
    """Pairs are measured by URL as those of this machine are; figures, tables and reports may have URLs, too."""
    told = []
    for photos in (here, folder):
        out = place(str(photos.parent)) / "measured"
        for seed in range(3):
            write_image(tiny.photo(64, 64, seed + 20), out / "pred" / f"{seed}.png")
            write_image(tiny.photo(64, 64, seed), out / "hr" / f"{seed}.png")
        command = ["evaluate", str(out / "pred"), str(out / "hr")]
        for option, name in (("scores", "figures.jsonl"), ("json", "a.json"), ("report", "a.html"), ("table", "a.csv")):
            command += [f"--{option}", str(out / name)]
        for _ in range(2):
            result = CliRunner().invoke(xpsr, command)
            assert result.exit_code == 0, result.output
        lines = (out / "figures.jsonl").read_text().splitlines()
        assert len(lines) == 6  # computed once
        told.append((sorted(lines), (out / "a.json").read_bytes(), (out / "a.csv").read_bytes()))
        assert (out / "a.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert told[0] == told[1]


def test_works_on_files_in_memory(memory: Path, tmp_path: Path) -> None:
    works_as_here(memory / "photos", tmp_path)


@pytest.mark.filterwarnings("default")  # those of the client and the server
def test_works_on_a_bucket_that_refuses_now_and_then(bucket: Path, tmp_path: Path, tiny_model: Path) -> None:
    works_as_here(bucket, tmp_path)
    command = ["upscale", f"{bucket}/more", "-o", "s3://photos/out", "--log", "s3://photos/log.jsonl"]
    command += ["--model", str(tiny_model), "--device", "cpu"]
    for counted in ("1 of 1 restored", "0 of 1 restored, 1 skipped"):
        result = CliRunner().invoke(xpsr, command)
        assert result.exit_code == 0, result.output
        assert counted in result.stdout
    statuses = [json.loads(line)["status"] for line in place("s3://photos/log.jsonl").read_text().splitlines()]
    assert statuses == ["restored", "skipped"]
    assert read_image(place("s3://photos/out/a.jpg")).image.size == (256, 256)
    missing = CliRunner().invoke(xpsr, ["caption", "s3://photos/none"])
    assert missing.exit_code == 2
    assert "'s3://photos/none' does not exist" in missing.stderr
    assert "secret-word" not in missing.stderr + result.output
