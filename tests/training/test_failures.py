"""What fails on the way of images into training is counted, and stops a run of which too much fails."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import tiny
from tests.support.registries import registry_with
from tests.support.training_runs import VALIDATION, config, log_of
from xpsr_sdk import Item, Options, Prompts, TrainingError
from xpsr_sdk.training.dry_run import dry_run
from xpsr_sdk.training.loop import TrainingRun, train


class Fails:
    """A provider that fails, and a degradation that fails where a photo is bright."""

    class Config(Options):
        pass

    scale = 4

    def __init__(self, config: Config) -> None: ...

    def describe(self, items: Sequence[Item], levels: Collection[str]) -> list[Prompts]:
        raise ConnectionError("refused")

    def unload(self) -> None: ...

    def __call__(self, hr: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        if float(hr.max()) == 1:
            raise ZeroDivisionError("too bright")
        return hr[..., ::4, ::4]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(4):
        tiny.photo(72, 64, seed=i).point(lambda level: level // 2).save(folder / f"{i}.png")
    return folder


def test_a_provider_that_fails_is_told_of_once_and_counted(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    run = config(
        tmp_path / "run",
        photos,
        tiny_model,
        data__prompt_provider="part",
        data__degradation="bicubic",
        data__max_failed=0.1,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(run, registry_with("prompt_provider", Fails))
    told = [str(w.message) for w in caught if "low-level prompt" in str(w.message)]
    assert len(told) == 1
    assert "The prompt provider 'part' of xpsr-test 0 raised ConnectionError: refused" in told[0]
    counts = [line["images_unprompted"] for line in log_of(tmp_path / "run")]
    assert 0 < counts[0] <= counts[-1] <= 6


def test_a_run_stops_where_the_provider_fails_too_often(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    options: dict[str, Any] = {"data__prompt_provider": "part", "data__degradation": "bicubic", "data__max_failed": 0}
    run = config(tmp_path / "run", photos, tiny_model, **options)
    with (
        pytest.warns(UserWarning, match="without a low-level prompt"),
        pytest.raises(TrainingError, match=r"(?s)have no low-level prompt.*refused.*data\.max_failed allows 0%"),
    ):
        train(run, registry_with("prompt_provider", Fails))


@pytest.mark.filterwarnings("ignore:.*The next image is used instead")
def test_photos_that_cannot_be_degraded_are_replaced_and_counted(
    tmp_path: Path, photos: Path, tiny_model: Path
) -> None:
    tiny.photo(72, 64, seed=9).point(lambda level: 255).save(photos / "bright.png")
    run = config(tmp_path / "run", photos, tiny_model, data__degradation="part", data__hr_as_input=0.0, steps=4)
    train(run, registry_with("degradation_model", Fails))
    assert log_of(tmp_path / "run")[-1]["images_replaced"] > 0


@pytest.mark.filterwarnings("ignore:.*The next image is used instead")
def test_a_pair_that_is_too_small_is_replaced(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    run = TrainingRun(config(tmp_path / "run", pairs, tiny_model, data__crop=1000))
    with pytest.raises(TrainingError, match=r"10 images in a row cannot be used, the last: .*at least 1000 pixels"):
        run.data.sample(0)


def test_held_out_images_that_cannot_be_used_are_left_out(tmp_path: Path, photos: Path, tiny_model: Path) -> None:
    tiny.photo(72, 64, seed=9).point(lambda level: 255).save(photos / "0bright.png")
    (photos / "0damaged.png").write_bytes((photos / "1.png").read_bytes()[:60])
    validation = {"folders": [photos], **VALIDATION, "images": 2}
    run = config(tmp_path / "run", photos, tiny_model, data__degradation="part", validation=validation)
    with pytest.warns(UserWarning, match="A held-out image is left out") as told:
        validated = TrainingRun(run, registry_with("degradation_model", Fails)).validation
    assert validated is not None
    assert len(validated.images) == 2
    assert any("0bright.png" in str(w.message) and "too bright" in str(w.message) for w in told)


def test_a_loss_that_is_not_finite_names_the_inputs_that_were_not(
    tmp_path: Path, pairs: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TrainingRun(config(tmp_path / "run", pairs, tiny_model))
    encode = run.backbone.encode
    monkeypatch.setattr(run.backbone, "encode", lambda *images: encode(*images) * torch.nan)
    with pytest.raises(TrainingError, match=r"The loss is nan at step 0 \(not finite are already its inputs: latents"):
        run.one_step()


@pytest.mark.parametrize("steps", [1, 3])
def test_a_short_run_has_a_plan_too(tmp_path: Path, pairs: Path, tiny_model: Path, steps: int) -> None:
    assert dry_run(config(tmp_path / "run", pairs, tiny_model, steps=steps)).steps == steps
