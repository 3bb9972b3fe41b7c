"""The programs in examples/ run as they stand; a tiny model takes the place of the shipped one, to be quick."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import CLIPTokenizer

import xpsr_sdk
from tests.support import tiny
from xpsr_sdk.cli.main import xpsr
from xpsr_sdk.config import read_toml
from xpsr_sdk.toolkit import MEASURED_PHRASES
from xpsr_sdk.training.config import TrainConfig

EXAMPLES = Path("examples")
SHORT = ("before_after.py", "degrade.py", "folder.py", "own_prompt_provider.py", "swap_sampler.py")


def run(program: str | Path, *arguments: object) -> None:
    """Run ``examples/PROGRAM`` (or a program elsewhere) as a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(program), *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / program), run_name="__main__")


def picture(path: Path) -> Image.Image:
    """An image file, read and closed."""
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.fixture
def tiny_default(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``build_pipeline()`` builds the tiny model."""
    build = xpsr_sdk.build_pipeline

    def small(model: str = str(tiny_model), **settings: Any) -> Any:
        return build(model=model, device="cpu", **{} if model == "none" else {"num_inference_steps": 4}, **settings)

    monkeypatch.setattr(xpsr_sdk, "build_pipeline", small)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A copy of examples/ with smaller photos."""
    folder = tmp_path / "examples"
    folder.mkdir()
    for name in SHORT:
        shutil.copy(EXAMPLES / name, folder)
    for name in ("photo", "web", "indoor"):
        tiny.photo(24, 20).save(folder / f"{name}.jpg")
    tiny.photo(96, 80).save(folder / "photo-original.jpg")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(2):
        tiny.photo(24, 20, seed).save(tmp_path / f"{seed}.jpg")
    return tmp_path


def test_short_programs_are_short_and_all_of_them_are_tested() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(SHORT)
    for name in SHORT:
        assert len((EXAMPLES / name).read_text().splitlines()) <= 40, name


def test_the_photos_belong_together_and_are_small() -> None:
    for name in ("photo", "indoor"):
        photo, original = (picture(EXAMPLES / f"{name}{of}.jpg") for of in ("", "-original"))
        assert original.size == (photo.width * 4, photo.height * 4)
    assert all(file.stat().st_size < 250_000 for file in EXAMPLES.glob("*.jpg"))


def test_degrade_makes_a_photo_of_a_quarter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("degrade.py", EXAMPLES / "photo-original.jpg", tmp_path / "photo.jpg", "--seed", 16)
    assert picture(tmp_path / "photo.jpg").size == picture(EXAMPLES / "photo.jpg").size
    assert "DegradationRecord" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_default")
def test_before_after_lays_a_row_for_each_photo(small: Path) -> None:
    run(small.absolute() / "before_after.py")
    sheet = picture(small.parent / "docs" / "images" / "before-after.jpg")
    assert sheet.width > 4 * 400
    assert sheet.height > 3 * 280


@pytest.mark.usefixtures("tiny_default")
def test_swap_sampler_makes_a_picture_with_each(small: Path) -> None:
    run(small / "swap_sampler.py", small)
    pictures = {path.stem: picture(path).tobytes() for path in small.glob("*.png")}
    assert set(pictures) == {"sampler-ddim", "sampler-dpmpp-2m", "sampler-one-step"}
    assert len(set(pictures.values())) == 3


@pytest.mark.usefixtures("tiny_default")
def test_own_prompt_provider_is_asked(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(small / "own_prompt_provider.py", small)
    printed = capsys.readouterr().out
    assert "high (file name): photo\n" in printed
    assert "low (measured): tiny resolution" in printed
    assert (small / "own-prompts.png").is_file()


@pytest.mark.usefixtures("tiny_default")
def test_folder_goes_on_after_a_failure_and_skips_what_is_done(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "restored"
    (photos / "0a.png").write_text("no image")
    with pytest.raises(SystemExit, match="1"):
        run("folder.py", photos, output)
    assert sorted(path.name for path in output.iterdir()) == ["0.png", "1.png"]
    assert "Failed: " in capsys.readouterr().out
    (photos / "0a.png").unlink()
    output.rename(tmp_path.parent / "restored")
    with pytest.raises(SystemExit, match="0"):
        run("folder.py", photos, tmp_path.parent / "restored")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "config",
    sorted([*EXAMPLES.glob("configs/*.toml"), *EXAMPLES.glob("train_nano/*.toml")]),
    ids=lambda path: path.name,
)
def test_training_configs_are_valid(config: Path) -> None:
    assert read_toml(TrainConfig, config).steps > 0


def test_a_config_of_the_paper_trains_a_checkpoint_that_restores(tmp_path: Path, pairs: Path) -> None:
    base = str(tiny.SD_TINY / "base")
    smaller = [f"model.base={base}", f'data.folders=["{pairs}"]', "data.crop=64", "data.workers=0"]
    smaller += ["steps=1", "batch_size=1", "trackers=[]"]
    output = tmp_path / "run"
    command = ["train", str(EXAMPLES / "configs" / "xpsr-sd15.toml"), *smaller, f"output={output}", "device=cpu"]
    trained = CliRunner().invoke(xpsr, command)
    assert trained.exit_code == 0, trained.output
    restore = [
        "upscale",
        str(EXAMPLES / "photo.jpg"),
        "-o",
        str(tmp_path / "photo.png"),
        "--scale",
        "1",
        "--steps",
        "1",
    ]
    restored = CliRunner().invoke(xpsr, [*restore, "--model", base, "--checkpoint", str(output / "checkpoint-1")])
    assert restored.exit_code == 0, restored.output
    assert picture(tmp_path / "photo.png").size == (320, 180)


@pytest.mark.parametrize("name", ["nano", "smoke"])
def test_ready_configs_train_and_validate(name: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    tiny.photo(96, 96).save(photos / "photo.png")
    shorter = ["steps=1", "batch_size=1", "data.crop=64", "validation.images=1", "validation.crop=64"]
    folders = [f'{section}.folders=["{photos}"]' for section in ("data", "validation")]
    command = ["train", str(EXAMPLES / "configs" / f"{name}.toml"), f"output={tmp_path / 'run'}", *shorter, *folders]
    trained = CliRunner().invoke(xpsr, [*command, "device=cpu", "checkpoint_every=1", "validation.every=1"])
    assert trained.exit_code == 0, trained.output
    assert (tmp_path / "run" / "checkpoint-1").is_dir()


def test_the_second_stage_of_nano_begins_with_the_last_checkpoint_of_the_first() -> None:
    first, second = (read_toml(TrainConfig, EXAMPLES / "train_nano" / f"{n}.toml") for n in ("1-mean", "2-xpsr"))
    assert second.model.base == str(first.output / f"checkpoint-{first.steps}")


def test_make_crops_leaves_out_what_has_no_detail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    detailed = generator.integers(0, 256, (600, 1100, 3), dtype=np.uint8)
    for name, pixels in {"detailed": detailed, "flat": np.full_like(detailed, 128)}.items():
        (tmp_path / "photos" / "package").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / "package" / f"{name}.png")
    run("train_nano/make_crops.py", tmp_path / "photos", "-o", tmp_path / "crops", "--crops-a-photo", 2)
    crops = list((tmp_path / "crops").iterdir())
    assert crops
    assert all(path.name.startswith("package__detailed_s") for path in crops)
    assert {picture(path).size for path in crops} == {(512, 512)}
    assert f"{len(crops)} crops" in capsys.readouterr().out


def test_plot_log_draws_the_logs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    logs = []
    for stage in ("one", "two"):
        logs.append(tmp_path / stage / "log.jsonl")
        logs[-1].parent.mkdir()
        lines = [
            {"step": step, "loss_diffusion": 1 / step, "loss_constraint_pixel": 0.1} for step in (1, 2, 3, 2, 3, 4)
        ]
        logs[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("train_nano/plot_log.py", *logs, "-o", tmp_path / "log.png")
    assert picture(tmp_path / "log.png").width == 1200


def test_make_tokenizer_gives_every_word_of_the_measured_prompts_one_token(tmp_path: Path) -> None:
    run("train_nano/make_tokenizer.py", tmp_path)
    for folder in (tmp_path, tiny.NANO_BASE / "tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        for phrase in MEASURED_PHRASES:
            assert len(tokenizer(phrase).input_ids) == len(phrase.split()) + 2, phrase  # and the start and end marks
    kept, made = (json.loads((f / "vocab.json").read_text()) for f in (tiny.NANO_BASE / "tokenizer", tmp_path))
    assert len(made) == len(kept)


def test_a_fresh_fusion_takes_the_place_of_the_trained_one(tiny_model: Path, tmp_path: Path) -> None:
    run("train_nano/fresh_fusion.py", "xpsr", "--model", tiny_model, "-o", tmp_path / "fresh")
    before, after = (
        xpsr_sdk.build_pipeline(model=str(model), device="cpu").controlnet.state_dict()
        for model in (tiny_model, tmp_path / "fresh")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".fusions." in name for name in changed)


def test_an_exported_model_restores_as_its_parts_do(tiny_model: Path, tmp_path: Path) -> None:
    run("train_nano/export.py", tiny_model, tiny_model, "-o", tmp_path / "model")
    index, original = (
        json.loads((folder / "model_index.json").read_text()) for folder in (tmp_path / "model", tiny_model)
    )
    assert index["defaults"] == original["defaults"]
    assert index["backbone"] == "residual"
    exported, whole = (
        xpsr_sdk.build_pipeline(model=str(folder), device="cpu") for folder in (tmp_path / "model", tiny_model)
    )
    assert exported.unet.dtype == torch.float32
    photo = tiny.photo(24, 20)
    pictures = [np.asarray(pipe(photo, seed=1).image, dtype=float) for pipe in (exported, whole)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 2
