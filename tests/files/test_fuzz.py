"""Damaged files, made by mutation: whatever is wrong with one is told in a sentence, quickly, by an error of our own.

``make test`` makes a few, always the same; ``make fuzz`` makes thousands, and names the seed of what it finds.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xpsr_sdk import PipelineConfig, XPSRError, build_pipeline
from xpsr_sdk.config import RunnerConfig, load_config, read_toml
from xpsr_sdk.data.images import read_image
from xpsr_sdk.data.shards import ShardFolder, read_part
from xpsr_sdk.evaluation.store import ScoreStore
from xpsr_sdk.evaluation.upscale_logs import read_logs
from xpsr_sdk.files.reading import read_json
from xpsr_sdk.models.checkpoints import read_checkpoint
from xpsr_sdk.preparation.prepare import prepare_shards
from xpsr_sdk.prompts.store import PromptStore, SeenImage
from xpsr_sdk.training.config import TrainConfig

COUNT = int(os.environ.get("XPSR_FUZZ", "0"))
SEEDS = range(12) if not COUNT else range(first := random.SystemRandom().randrange(10**9), first + COUNT)
LIBRARY_WORDS = re.compile(
    r"[a-z]Error\b|has no attribute|\[Errno|Expecting|object is not|unsupported operand|state_dict"
)
"""What only people understand who know the code of a library."""
PIECES = (
    *(b"", b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x1b[31m"),
    *(b"\n", b"[" * 2000, b"1e999", b"-1", b"null"),
)
CONFIG = b"""
model = "nano"
scale = 4.0
guidance_interval = [0.1, 0.9]
prompt = "a house"
sampler = {name = "ddim"}
[execution]
offload = "model"
"""
MODEL_FILES = ("unet/config.json", "controlnet/config.json", "unet/diffusion_pytorch_model.safetensors")
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c)"
COLUMNS = ", ".join(
    f"x AS {name}" for name in ["id", "sha256", "level", "provider", "model", "question", "text", "source"]
)
TRAINING = b"""
output = "out"
steps = 10
batch_size = 2
model = {base = "nano", lora_rank = 4}
data = {folders = ["a"], crop = 64}
optimizer = {learning_rate = 1e-4, betas = [0.9, 0.999]}
"""


def mutated(content: bytes, seed: int) -> bytes:
    """The content with some bytes flipped, cut out, repeated, or replaced by what often does harm."""
    rng, changed = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed) + 1) if rng.random() < 0.6 else rng.randrange(min(len(changed), 64) + 1)
        length = rng.choice((1, 1, 2, 4, 16, 64))
        kind = rng.randrange(5)
        if kind == 0 and changed:
            changed[min(at, len(changed) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length]
        elif kind == 3:
            changed[at : at + length] = rng.choice(PIECES)
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def check(seed: int, deed: Callable[[], object]) -> None:
    """Do something with a damaged file: it works, or ends in an error of ours in printable lines, within seconds."""
    began = time.monotonic()
    try:
        deed()
    except XPSRError as error:
        text = str(error)
        assert text.replace("\n", "").isprintable(), f"seed {seed}: {text!r}"
        assert len(text) < 2000, f"seed {seed}: {text!r}"
        assert not LIBRARY_WORDS.search(text), f"seed {seed}: {text!r}"
    except Exception as error:
        pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
    assert time.monotonic() - began < 20, f"seed {seed} took too long"


def images() -> Iterator[tuple[str, bytes]]:
    """A small image in every type, some with a profile, a palette, alpha or 16 bits."""
    levels = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    photo = Image.fromarray(levels[..., :3])
    forms: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "jpg": (photo, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "png": (Image.fromarray(levels), {}),
        "deep.png": (Image.fromarray(levels[..., 0].astype(np.uint16) * 257), {}),
        "gif": (photo.convert("P"), {}),
        "tif": (photo, {"compression": "tiff_lzw"}),
        "webp": (photo, {"lossless": True}),
        "bmp": (photo, {}),
        "avif": (photo, {}),
        "ppm": (photo, {}),
    }
    for name, (image, options) in forms.items():
        file = io.BytesIO()
        image.save(file, Image.registered_extensions()["." + name.rpartition(".")[2]], **options)
        yield name, file.getvalue()


IMAGES = dict(images())


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"x.{name}"
    for seed in SEEDS:
        file.write_bytes(mutated(IMAGES[name], seed))
        check(seed, lambda: read_image(file))


@pytest.mark.parametrize(("content", "schema"), [(CONFIG, PipelineConfig), (TRAINING, TrainConfig)])
def test_settings(content: bytes, schema: type[PipelineConfig | TrainConfig], tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    for seed in SEEDS:
        file.write_bytes(mutated(content, seed))
        check(seed, lambda: read_toml(schema, file))


@pytest.mark.parametrize("name", MODEL_FILES)
def test_models(name: str, tmp_path: Path) -> None:
    shutil.copytree("tests/fixtures/ref-sd15-tiny/xpsr", tmp_path / "model")
    file = tmp_path / "model" / name
    content = file.read_bytes()
    for seed in SEEDS[: max(4, COUNT // 10)]:
        file.write_bytes(mutated(content, seed))
        check(seed, lambda: read_checkpoint(tmp_path / "model"))
        if file.suffix == ".json":
            check(seed, lambda: read_json(file, XPSRError))


def test_shards(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(IMAGES["jpg"])
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "photos" / "b.png")
    prepare_shards(tmp_path / "photos", tmp_path / "shards", degradation=None, prompt_provider="fixed")
    file = tmp_path / "shards" / "shard-00000.tar"
    content = file.read_bytes()

    def read() -> None:
        folder = ShardFolder(tmp_path / "shards", read_part, 16)
        for index in range(len(folder)):
            folder.example(index, False)

    for seed in SEEDS:
        file.write_bytes(mutated(content, seed))
        check(seed, read)


def test_stores(tmp_path: Path) -> None:
    file = tmp_path / "prompts.sqlite"
    store = PromptStore(file, writable=True)
    store.add([], [SeenImage("a.png", 1, 1, "0" * 64)])
    store.close()
    content = file.read_bytes()

    def read() -> None:
        damaged = PromptStore(file)
        try:
            damaged.images(5)
            damaged.newest("0" * 64, "high")
            damaged.seen("a.png")
        finally:
            damaged.close()

    for seed in SEEDS:
        file.write_bytes(mutated(content, seed))
        check(seed, read)


@pytest.mark.parametrize(
    "statement",
    [
        f"DROP TABLE prompts; CREATE VIEW prompts AS {ENDLESS} SELECT {COLUMNS} FROM c",
        "CREATE TRIGGER t AFTER INSERT ON images BEGIN DELETE FROM prompts; END",
        "INSERT INTO prompts (sha256, level, provider, model, question, text, source)"
        " VALUES ('0', 'high', '', '', '', printf('%.*c', 40000000, 'x'), '')",
        "DROP TABLE images; CREATE TABLE images (path)",
        "INSERT INTO prompts (sha256, level, provider, model, question, text, source)"
        " VALUES ('0', 'high', '', '', '', CAST(x'ff' AS TEXT), '')",
    ],
)
def test_stores_that_were_made_to_do_harm(statement: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.sqlite"
    store = PromptStore(file, writable=True)
    store.add([], [])
    store.close()
    with sqlite3.connect(file) as connection:
        connection.executescript(statement)
    connection.close()
    began = time.monotonic()

    def read() -> None:
        PromptStore(file).newest("0", "high")
        PromptStore(file).images(3)

    with pytest.raises(XPSRError, match=r"prompts\.sqlite cannot be used"):
        read()
    assert time.monotonic() - began < 30


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    base = TRAINING.decode()
    for line in ("learning_rate = inf", "learning_rate = nan", "betas = [1.0, 2.0]", "weight_decay = -1"):
        file.write_text(base.replace("learning_rate = 1e-4, betas = [0.9, 0.999]", line))
        with pytest.raises(XPSRError):
            read_toml(TrainConfig, file)
    file.write_text(base.replace("lora_rank = 4", "lora_rank = 99999"))
    with pytest.raises(XPSRError, match="lora_rank"):
        read_toml(TrainConfig, file)
    file.write_text("guidance_interval = [0.9, 0.1]")
    with pytest.raises(XPSRError, match="from the lower to the higher value"):
        read_toml(PipelineConfig, file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps = true", "steps: must be a number, not True"),
        (f"seed = {10**400}", "seed: must be a smaller number"),
        ('"" = 1', "'': there is no such option"),
        ('output = "nosuch://a"', "no kind of store with the name 'nosuch'"),
    ],
)
def test_settings_of_a_wrong_kind_are_named(line: str, message: str, tmp_path: Path) -> None:
    kept = [each for each in TRAINING.decode().splitlines() if not each.startswith(line.partition(" ")[0] + " ")]
    (tmp_path / "x.toml").write_text("\n".join([line, *kept]))
    with pytest.raises(XPSRError, match=re.escape(message)):
        read_toml(TrainConfig, tmp_path / "x.toml").output.exists()


VALUES = (None, True, -1, 2**70, 1e308, "", "x", "\x1b[31m", [], {}, [[]], ["DownBlock2D"], 1e9, "../../etc/passwd")
"""What takes the place of a value in a config."""


def with_another_value(content: bytes, seed: int) -> bytes:
    """A JSON text in which one value is another, or left out."""
    rng, tree = random.Random(seed), json.loads(content)
    places = list(_places(tree))
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(tree).encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


@pytest.mark.parametrize("name", ["unet/config.json", "controlnet/config.json", "vae/config.json", "scheduler/*.json"])
def test_models_with_another_value_in_a_config(name: str, tmp_path: Path) -> None:
    shutil.copytree("tests/fixtures/ref-sd15-tiny/base", tmp_path / "model")
    shutil.copytree("tests/fixtures/ref-sd15-tiny/xpsr", tmp_path / "model", dirs_exist_ok=True)
    file = next((tmp_path / "model").glob(name))
    content = file.read_bytes()
    photo = Image.new("RGB", (16, 16), "gray")
    for seed in SEEDS[: max(8, COUNT // 4)]:
        file.write_bytes(with_another_value(content, seed))
        check(
            seed, lambda: build_pipeline(model=tmp_path / "model", device="cpu")(photo, scale=2, num_inference_steps=1)
        )


def test_logs_with_any_lines(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    line = (
        b'{"status": "restored", "result": "a.png", "width": 4, "height": 4, "seconds": 1.0, "key": "a", "figure": "1"}'
    )
    for seed in SEEDS:
        file.write_bytes(mutated(line + b"\n" + with_another_value(line, seed) + b"\n", seed))
        check(seed, lambda: read_logs([file]))
        check(seed, lambda: ScoreStore(file))


def test_seconds_that_the_system_cannot_wait_for_are_refused() -> None:
    with pytest.raises(XPSRError, match="worker_timeout: must be at most"):
        load_config(RunnerConfig, {"worker_timeout": 2.0**63}, "the command")
