"""Preparing pairs: the same for any number of workers, and nothing lost because of a bad file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import tiny
from tests.support.registries import registry_with
from tests.support.two_hands import TwoHands
from xpsr_sdk import (
    ComponentSpec,
    ConfigError,
    Item,
    Options,
    Prompts,
    Registry,
    TrainingError,
    UnknownComponent,
    hookimpl,
)
from xpsr_sdk.builtin.bicubic_degradation import BicubicDegradation
from xpsr_sdk.data.images import read_image, to_image, to_tensor
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.preparation import preparer
from xpsr_sdk.preparation.prepare import prepare_pairs, prepare_shards
from xpsr_sdk.preparation.report import Prepared
from xpsr_sdk.preparation.sharpen import sharpen


class Captioner:
    """Describes well, reports a failure or raises one, as ``way`` says, and keeps what it was shown."""

    class Config(Options):
        way: str

    shown: ClassVar[list[Item]] = []

    def __init__(self, config: Config) -> None:
        self.way = config.way

    def describe(self, items: Sequence[Item], levels: Collection[str]) -> list[Any]:
        self.shown.extend(items)
        if self.way == "raises":
            raise MemoryError("no room for the captioner")
        if self.way == "texts":
            return ["a house"]
        errors = {"high": "The captioner is asleep."} if self.way == "reports" and "high" in levels else {}
        return [Prompts(high=None if errors else "a house", low="blurry", errors=errors)]  # type: ignore[arg-type]

    def unload(self) -> None: ...


class Plugin:
    @hookimpl
    def xpsr_prompt_providers(self) -> list[ComponentSpec]:
        return [ComponentSpec("captioner", f"{__name__}:Captioner", "Describes, or fails to.")]


@pytest.fixture
def with_captioner() -> Registry:
    Captioner.shown.clear()
    return Registry([Plugin()])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "trip").mkdir()
    tiny.photo(70, 65).save(folder / "one.png")
    tiny.photo(64, 68, seed=1).save(folder / "trip" / "two.png")
    (folder / "text.png").write_text("no image")
    tiny.photo(40, 90).save(folder / "small.png")
    return folder


@pytest.fixture(scope="module")
def prepared(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared]:
    output = tmp_path_factory.mktemp("pairs")
    return output, prepare_pairs(photos, output, variants=2)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixels(file: Path) -> np.ndarray[Any, Any]:
    with Image.open(file) as image:
        return np.array(image)


def size_of(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def test_each_photo_becomes_its_pairs(prepared: tuple[Path, Prepared]) -> None:
    output, report = prepared
    assert report.samples == 4
    names = ["one__v0", "one__v1", "trip__two__v0", "trip__two__v1"]
    for part, suffix in (("HR", "png"), ("LR", "png"), ("lowlevel_prompt_q", "txt"), ("lowlevel_prompt_q_GT", "txt")):
        assert sorted(p.name for p in (output / part).iterdir()) == [f"{name}.{suffix}" for name in names]
    assert size_of(output / "HR" / "one__v0.png") == (68, 64)
    assert size_of(output / "LR" / "one__v0.png") == (17, 16)
    assert all((output / "lowlevel_prompt_q" / f"{name}.txt").read_text() for name in names)


def test_hr_is_the_photo_and_variants_differ(photos: Path, prepared: tuple[Path, Prepared]) -> None:
    output, _ = prepared
    original = pixels(photos / "one.png")[:64, :68]
    assert np.array_equal(pixels(output / "HR" / "one__v0.png"), original)
    first, second = (pixels(output / "LR" / f"one__v{i}.png") for i in (0, 1))
    assert not np.array_equal(first, second)


def test_bad_files_are_reported(photos: Path, prepared: tuple[Path, Prepared]) -> None:
    _, report = prepared
    assert report.failed.keys() == {photos / "text.png", photos / "small.png"}
    assert "is not an image" in report.failed[photos / "text.png"]
    assert "40x88 is too small: at least 64 pixels" in report.failed[photos / "small.png"]


def test_workers_change_nothing(photos: Path, prepared: tuple[Path, Prepared], tmp_path: Path) -> None:
    output, report = prepared
    again = prepare_pairs(photos, tmp_path, variants=2, workers=2)
    assert again == report
    assert files(tmp_path) == files(output)


def test_workers_end_when_the_call_is_killed(photos: Path, tmp_path: Path) -> None:
    program = tmp_path / "run.py"
    call = (
        "prepare_pairs(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, progress=lambda *_: print('done', flush=True))"
    )
    head = "import sys\nfrom pathlib import Path\nfrom xpsr_sdk.preparation.prepare import prepare_pairs\n"
    program.write_text(f"{head}if __name__ == '__main__':\n    {call}\n    input()\n")
    command = [sys.executable, program, photos, tmp_path / "pairs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout
        assert run.stdout.readline() == "done\n"
        run.kill()
        run.communicate(timeout=100)  # the workers have the pipe, too: it ends with the last of them


def test_the_seed_changes_the_degradation_alone(photos: Path, prepared: tuple[Path, Prepared], tmp_path: Path) -> None:
    output, _ = prepared
    prepare_pairs(photos, tmp_path, variants=1, seed=1)
    first, second = files(output), files(tmp_path)
    assert first["HR/one__v0.png"] == second["HR/one__v0.png"]
    assert first["LR/one__v0.png"] != second["LR/one__v0.png"]


def test_components_can_be_chosen_with_options(photos: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepare_pairs(
        photos,
        tmp_path,
        degradation={"name": "bicubic", "scale": 2},
        prompt_provider={"name": "fixed", "high": "a house", "low": "blurry"},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert size_of(tmp_path / "LR" / "one__v0.png") == (35, 32)
    assert (tmp_path / "highlevel_prompt_GT" / "one__v0.txt").read_text() == "a house"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_options_may_hold_tables_and_lists(photos: Path, tmp_path: Path) -> None:
    degradation = {"name": "realesrgan", "first": {"jpeg_quality": [30, 31]}, "kernel_sizes": [7, 9]}
    assert prepare_pairs(photos, tmp_path, degradation=degradation).samples == 2


def test_sharpened_photos_are_stored_and_degraded(photos: Path, tmp_path: Path) -> None:
    prepare_pairs(photos, tmp_path, degradation="bicubic", sharpen=True)
    original = read_image(photos / "one.png").image.crop((0, 0, 68, 64))
    hr = to_image(sharpen(to_tensor(original)))
    assert hr != original
    lr = to_image(BicubicDegradation()(to_tensor(hr), [torch.Generator()]))
    assert np.array_equal(pixels(tmp_path / "HR" / "one__v0.png"), np.array(hr))
    assert np.array_equal(pixels(tmp_path / "LR" / "one__v0.png"), np.array(lr))


def test_only_crops_are_decoded_into_memory(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, sizes = Picture.window, set()

    def window(picture: Picture, left: int, top: int, width: int, height: int) -> Any:
        sizes.add((width, height))
        return read(picture, left, top, width, height)

    monkeypatch.setattr(Picture, "window", window)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 32)  # of Pillow, which would refuse a photo that is allowed
    assert prepare_pairs(photos, tmp_path, degradation="bicubic", crop=64).samples == 2
    assert sizes == {(64, 64)}


@pytest.mark.parametrize("whole", [{}, {"sharpen": True, "crop": 64}])
def test_a_photo_that_does_not_fit_into_memory_is_left_out(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any]
) -> None:
    monkeypatch.setattr(preparer, "free_memory", lambda device: 64 * 68 * preparer.WHOLE)
    report = prepare_pairs(photos, tmp_path, degradation="bicubic", **whole)
    assert report.samples == 2
    with monkeypatch.context() as less:
        less.setattr(preparer, "free_memory", lambda device: 1000)
        report = prepare_pairs(photos, tmp_path / "none", degradation="bicubic", **whole)
        assert report.samples == 0
        said = report.failed[photos / "one.png"]
        assert "68x64 is too large: as a whole it takes about" in said
        assert "set a crop" in said
        assert report.causes[photos / "one.png"] == "too large"
        assert prepare_pairs(photos, tmp_path / "crops", degradation="bicubic", crop=64).samples == 2


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("reports", "The captioner is asleep."),
        ("raises", "MemoryError: no room for the captioner"),
        ("texts", "The prompt provider 'captioner' of Plugin 0 gave a str as an answer, not Prompts."),
    ],
)
def test_prompts_that_could_not_be_had_are_reported(
    photos: Path, tmp_path: Path, with_captioner: Registry, way: str, reason: str
) -> None:
    choices = {"degradation": "bicubic", "prompt_provider": {"name": "captioner", "way": way}, "variants": 2}
    report = prepare_pairs(photos, tmp_path, registry=with_captioner, **choices)
    assert report.samples == 4
    assert report.unprompted == {photos / "one.png": reason, photos / "trip" / "two.png": reason}
    assert not (tmp_path / "highlevel_prompt_GT").exists()
    assert (tmp_path / "lowlevel_prompt_q" / "one__v0.txt").is_file() == (way == "reports")


class Degrades:
    """Halves, then does what ``answer`` says to a photo that is 64 pixels wide; its neighbours come out well."""

    class Config(Options):
        pass

    scale = 2
    answer: ClassVar[Any]

    def __init__(self, config: Config) -> None: ...

    def __call__(self, hr: torch.Tensor, generators: Sequence[torch.Generator]) -> Any:
        lr = hr[..., ::2, ::2]
        return self.answer(lr) if hr.shape[-1] == 64 else lr


def raising(lr: torch.Tensor) -> Any:
    raise ZeroDivisionError("by the contrast")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (raising, "raised ZeroDivisionError: by the contrast"),
        (lambda lr: lr.repeat_interleave(2, -1), "gave LR images of shape"),
        (lambda lr: (lr * 255).byte(), "gave LR images in torch.uint8, not in torch.float32"),
        (lambda lr: lr * 255, "gave LR images from "),
        (lambda lr: lr / 0, "gave LR images that are not finite"),
    ],
)
@pytest.mark.parametrize("make", [prepare_pairs, prepare_shards])
def test_a_degradation_that_fails_on_a_photo_costs_that_photo(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, reason: str, make: Any
) -> None:
    monkeypatch.setattr(Degrades, "answer", staticmethod(answer), raising=False)
    report = make(photos, tmp_path, degradation="part", registry=registry_with("degradation_model", Degrades))
    photo = photos / "trip" / "two.png"
    assert report.samples == 2
    assert report.failed[photo].startswith(f"The degradation model 'part' of xpsr-test 0 {reason}")
    assert str(photo) in report.failed[photo]


def test_the_provider_is_told_which_photo_it_is(photos: Path, tmp_path: Path, with_captioner: Registry) -> None:
    choices = {"degradation": "bicubic", "prompt_provider": {"name": "captioner", "way": "well"}}
    report = prepare_pairs(photos, tmp_path, registry=with_captioner, **choices)
    assert report.unprompted == {}
    hr, lr, *_ = Captioner.shown
    assert (hr.path, hr.sha256) == (photos / "one.png", read_image(photos / "one.png").sha256)
    assert (lr.path, lr.sha256) == (None, None)


@pytest.mark.parametrize(("first", "second"), [("a-png.jpg", "a.png"), ("x/y.png", "x__y.png")])
def test_two_photos_that_would_get_one_name_are_refused(tmp_path: Path, first: str, second: str) -> None:
    for name in (first, second):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        tiny.photo(64, 64).save(tmp_path / "photos" / name)
    tiny.photo(64, 64).save(tmp_path / "photos" / "a.bmp")
    with pytest.raises(TrainingError) as caught:
        prepare_pairs(tmp_path / "photos", tmp_path / "out")
    assert all(str(tmp_path / "photos" / name) in str(caught.value) for name in (first, second))
    assert not (tmp_path / "out").exists()


def test_what_cannot_begin_is_a_clear_error(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no images"):
        prepare_pairs(tmp_path, tmp_path / "out")
    with pytest.raises(UnknownComponent, match=r"Did you mean 'bicubic'\?"):
        prepare_pairs(photos, tmp_path / "out", degradation="bicubik")
    with pytest.raises(ConfigError, match="has wrong options"):
        prepare_pairs(photos, tmp_path / "out", degradation={"name": "bicubic", "scale": 0})
    assert not (tmp_path / "out").exists()


def test_photos_whose_pairs_exist_are_skipped(photos: Path, tmp_path: Path) -> None:
    report = prepare_pairs(photos, tmp_path, variants=2)
    before = files(tmp_path)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    (tmp_path / "HR" / "trip__two__v1.png").unlink()  # killed before it was written
    seen: list[tuple[int, int]] = []
    again = prepare_pairs(photos, tmp_path, variants=2, progress=lambda *step: seen.append(step))
    assert again == report
    assert seen == [(3, 4), (4, 4)]
    assert files(tmp_path) == before
    made = {str(file.relative_to(tmp_path)) for file, time in times.items() if file.stat().st_mtime_ns != time}
    assert made == {f"{part}/trip__two__v{variant}.png" for part in ("HR", "LR") for variant in (0, 1)}
    with pytest.raises(TrainingError, match="holds pairs that were made with other options"):
        prepare_pairs(photos, tmp_path, variants=1)


def test_a_photo_that_changed_is_prepared_again(tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    tiny.photo(64, 64).save(photo)
    prepare_pairs(photo.parent, tmp_path / "pairs", degradation="bicubic")
    tiny.photo(64, 68, seed=1).save(photo)
    prepare_pairs(photo.parent, tmp_path / "pairs", degradation="bicubic")
    assert size_of(tmp_path / "pairs" / "HR" / "a__v0.png") == (64, 68)


class Forgetful(Captioner):
    """Describes a size of photo only when it is asked for the second time."""

    asked: ClassVar[set[tuple[int, int]]] = set()

    def describe(self, items: Sequence[Item], levels: Collection[str]) -> list[Any]:
        [size] = {item.image.size for item in items}
        if size in self.asked:
            return [Prompts(high="a house", low="blurry")]
        self.asked.add(size)
        return [Prompts(errors={"low": "The captioner is asleep."})]


@pytest.mark.parametrize("make", [prepare_pairs, prepare_shards])
def test_what_fails_is_prepared_by_another_worker(photos: Path, tmp_path: Path, make: Any) -> None:
    Forgetful.asked.clear()
    choices = {"prompt_provider": {"name": "part", "way": ""}, "runner": TwoHands(), "degradation": "bicubic"}
    told: list[Path] = []
    report = make(
        photos, tmp_path, registry=registry_with("prompt_provider", Forgetful),
        on_failure=lambda photo, reason: told.append(photo), **choices,
    )  # fmt: skip
    assert (report.samples, report.unprompted) == (2, {})
    assert sorted(told) == [photos / "small.png", photos / "text.png"]
