"""Distillation to one step: what the student learns, what its checkpoints say, and how they restore."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from tests.support import tiny
from tests.support.training_runs import config, log_of, validations_of, weights
from xpsr_sdk import ConfigError, Registry, build_pipeline
from xpsr_sdk.builtin.one_step_sampler import OneStepSampler
from xpsr_sdk.testing import GaussianDenoiser, check_sampler
from xpsr_sdk.training.loop import TrainingRun, train

STUDENT: dict[str, Any] = {
    "one_step": {},
    "model__train": [],
    "model__lora_rank": 2,
    "loss": {
        "terms": {"pixel": {}, "perceptual": {"metric": "ssim", "weight": 0.1}, "score-distillation": {"rank": 2}}
    },
    "optimizer": {"learning_rate": 1e-2, "ema_decay": 0.0},
}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, pairs: Path, tiny_model: Path) -> Path:
    """The output folder of a run of 12 steps."""
    folder = tmp_path_factory.mktemp("student")
    validation = {"folders": [pairs], "every": 12, "images": 2, "crop": 64}
    train(config(folder, pairs, tiny_model, steps=12, checkpoint_every=6, validation=validation, **STUDENT))
    return folder


def test_the_student_learns_with_its_critic(student: Path, tiny_model: Path) -> None:
    lines = log_of(student)
    names = {name for name in lines[0] if name.startswith("loss_")}
    of_scores = {"loss_score-distillation_model", "loss_score-distillation_critic"}
    assert names == {"loss_pixel", "loss_perceptual"} | of_scores
    first, last = (sum(line["loss_pixel"] for line in part) for part in (lines[:4], lines[-4:]))
    assert last < first
    assert lines[0]["grad_norm/loss.score-distillation"] > 0
    before, after = weights(tiny_model), weights(student / "checkpoint-12")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("unet.") and ".attentions." in name for name in changed), "only the LoRA is trained"


def test_the_teacher_is_the_model_before_the_first_step(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    run = TrainingRun(config(tmp_path, pairs, tiny_model, **STUDENT))
    term: Any = run.terms.by_label["score-distillation"]
    inputs = run.draw(run.data.batch([0, 1]))
    assert set(inputs.timesteps.tolist()) == {999}
    first = run.losses(inputs)["loss_score-distillation_model"].item()
    assert first == 0, "at first, the critic is the teacher"
    frozen = {name: tensor.clone() for name, tensor in term.state_dict().items() if "lora" not in name}
    for _ in range(2):
        run.one_step()
    assert all(torch.equal(term.state_dict()[name], tensor) for name, tensor in frozen.items())
    assert run.losses(inputs)["loss_score-distillation_model"].item() > 0


def test_a_checkpoint_says_what_it_is_and_restores_in_one_evaluation(student: Path, tiny_model: Path) -> None:
    checkpoint = student / "checkpoint-12"
    said = json.loads((checkpoint / "defaults.json").read_text())
    assert (said["start"], said["sampler"], said["noisiest_start"]) == ("photo", "one-step", 1.0)
    pipe = build_pipeline(model=str(tiny_model), checkpoint=checkpoint, device="cpu")
    evaluations: list[int] = []
    pipe.unet.register_forward_hook(lambda *_: evaluations.append(1))
    photo = tiny.photo(24, 20)
    restored = pipe(photo, seed=0).image
    assert len(evaluations) == 1
    assert restored.tobytes() == pipe(photo, seed=1).image.tobytes(), "there is no noise"
    assert restored.tobytes() != pipe(photo, seed=0, fidelity=1.0).image.tobytes()
    with pytest.raises(ConfigError, match=r"distilled to restore a photo in one step.*choose the sampler one-step"):
        build_pipeline(model=str(tiny_model), checkpoint=checkpoint, sampler="ddim", device="cpu")


def test_a_saved_student_is_a_student(student: Path, tiny_model: Path, tmp_path: Path) -> None:
    pipe = build_pipeline(model=str(tiny_model), checkpoint=student / "checkpoint-12", device="cpu")
    pipe.save_pretrained(tmp_path / "saved")
    again = build_pipeline(model=str(tmp_path / "saved"), device="cpu")
    photo = tiny.photo(24, 20)
    assert again(photo).image.tobytes() == pipe(photo).image.tobytes()


def test_validation_restores_in_one_step_as_well(student: Path, tiny_model: Path) -> None:
    assert validations_of(student)[-1]["psnr"] > validations_of(student)[0]["psnr"]


def test_a_resumed_student_ends_the_same(student: Path, pairs: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(student / "checkpoint-6", tmp_path / "checkpoint-6")
    resumed = train(config(tmp_path, pairs, tiny_model, steps=12, **STUDENT))
    expected, found = weights(student / "checkpoint-12"), weights(resumed)
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]


def test_the_student_of_another_timestep(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    options = STUDENT | {"one_step": {"timestep": 249}, "loss": {"terms": {"diffusion": {}}}}
    run = TrainingRun(config(tmp_path, pairs, tiny_model, **options))
    run.one_step()
    run.save()
    pipe = build_pipeline(model=str(tiny_model), checkpoint=tmp_path / "checkpoint-1", device="cpu")
    seen: list[int] = []
    pipe(tiny.photo(24, 20), callback=lambda step, t, latents: seen.append(t))
    assert seen == [249]


def test_options_of_noise_have_no_effect_and_are_refused(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss\.mean_share is about noise, and one_step adds none"):
        config(tmp_path, pairs, tiny_model, one_step={}, loss={"mean_share": 0.5})


def test_the_sampler_gives_the_estimate_of_the_model() -> None:
    check_sampler("one-step", Registry([]))
    denoiser = GaussianDenoiser(start_timestep=700)
    x = denoiser.start(1, 4, 5, 3)
    found = OneStepSampler().sample(denoiser, x, num_inference_steps=4, generators=[])
    step = DDPMScheduler.from_config(denoiser.scheduler.config).step(denoiser.predict(x, 700), 700, x)
    torch.testing.assert_close(found, step.pred_original_sample)


def test_the_least_noise_must_be_less_than_the_most() -> None:
    with pytest.raises(ConfigError, match=r"lowest is 0\.5: it must be less than highest, 0\.1\."):
        Registry([]).config("loss_term", {"name": "score-distillation", "lowest": 0.5, "highest": 0.1})
