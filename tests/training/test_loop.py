"""Training runs, short ones: what is written, what moves, and that a run can be taken up again."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from tests.support import tiny
from tests.support.registries import registry_with
from tests.support.training_runs import config, log_of, weights
from xpsr_sdk import ConfigError, Registry, TrainingError, build_pipeline
from xpsr_sdk.builtin.residual import ResidualBackbone
from xpsr_sdk.models.checkpoints import read_checkpoint, write_checkpoint
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.training.config import OptimizerSection
from xpsr_sdk.training.loop import TrainingRun, train
from xpsr_sdk.training.optimizer import learning_rate

XPSR_PARTS = ("controlnet.*", "unet.*pixel_attentions*", "unet.*fusions*")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    tiny.write_configs(folder)
    return folder


def test_a_run_leaves_a_checkpoint_that_restores(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    last = train(config(tmp_path / "run", pairs, tiny_model))
    assert last == tmp_path / "run" / "checkpoint-3"
    assert weights(last).keys() == weights(tiny_model).keys()  # the published names
    pipe = build_pipeline(model=str(tiny_model), checkpoint=last, device="cpu")
    photo = tiny.photo(16, 16)
    changed = pipe(photo, seed=0).image.tobytes()
    assert changed != build_pipeline(model=str(tiny_model), device="cpu")(photo, seed=0).image.tobytes()


def test_stable_diffusion_trains_from_a_base_alone(tmp_path: Path, pairs: Path) -> None:
    run = config(
        tmp_path,
        pairs,
        tiny.SD_TINY / "base",
        model__conditioning_widths=(4, 4, 4, 4),
    )
    last = train(run)
    pipe = build_pipeline(model=str(tiny.SD_TINY / "base"), checkpoint=last, device="cpu")
    assert pipe(tiny.photo(16, 16), num_inference_steps=1, scale=1).image.size == (16, 16)


def test_what_no_pattern_names_stays_bit_for_bit(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    run = TrainingRun(config(tmp_path, pairs, tiny_model), None)
    text, vae = (
        {k: v.clone() for k, v in m.state_dict().items()} for m in (run.backbone.text_encoder, run.backbone.vae)
    )
    for _ in range(3):
        run.one_step()
    run.save()
    before, after = weights(tiny_model), weights(tmp_path / "checkpoint-3")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name in before if name.startswith("controlnet.") or "pixel_attentions" in name}
    assert moved <= trained
    assert len(moved) > 0.95 * len(trained)  # but for biases whose gradient is zero, such as those of keys
    for model, kept in ((run.backbone.text_encoder, text), (run.backbone.vae, vae)):
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_run_that_is_taken_up_again_ends_the_same(
    tmp_path: Path, pairs: Path, tiny_model: Path, schedule: str
) -> None:
    options: dict[str, Any] = {"steps": 4, "checkpoint_every": 2, "optimizer__schedule": schedule}
    whole = train(config(tmp_path / "whole", pairs, tiny_model, **options))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "halved" / "checkpoint-2")
    halved = train(config(tmp_path / "halved", pairs, tiny_model, **options))
    expected, found = weights(whole), weights(halved)
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]
    losses = [[line["loss"] for line in log_of(tmp_path / run)[-2:]] for run in ("whole", "halved")]
    assert losses[0] == losses[1]


def test_a_finished_run_is_not_taken_further(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    first = train(config(tmp_path, pairs, tiny_model))
    before = weights(first)
    again = train(config(tmp_path, pairs, tiny_model))
    assert again == first
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(again).items())
    assert len(log_of(tmp_path)) == 3


def test_the_same_seed_trains_the_same(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(config(tmp_path / name, pairs, tiny_model, seed=seed))
    losses = {name: [line["loss"] for line in log_of(tmp_path / name)] for name in "abc"}
    assert losses["a"] == losses["b"] != losses["c"]


def test_each_term_of_the_loss_is_logged(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    train(config(tmp_path, pairs, tiny_model))
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert all(
            line[name] > 0
            for name in ("loss_diffusion", "loss_constraint_pixel", "loss_constraint_latent", "grad_norm")
        )
        terms = line["loss_diffusion"] + line["loss_constraint_pixel"] + line["loss_constraint_latent"]
        assert line["loss"] == pytest.approx(terms)
        assert line["learning_rate"] == 1e-3


def test_the_newest_checkpoints_are_kept(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    train(config(tmp_path, pairs, tiny_model, steps=4, checkpoint_every=1, keep_checkpoints=2))
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_checkpoints_hold_the_ema_weights(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    run = TrainingRun(config(tmp_path, pairs, tiny_model, optimizer__ema_decay=0.9), None)
    for _ in range(3):
        run.one_step()
    raw = {name: p.detach().clone() for name, p in run.trained.items()}
    run.save()
    assert all(torch.equal(raw[name], p) for name, p in run.trained.items())  # training goes on with its own
    with Registry([]).in_force():
        _, controlnet = read_checkpoint(tmp_path / "checkpoint-3")
    ema_weights = dict(controlnet.named_parameters())
    assert any(
        not torch.equal(ema_weights[n.removeprefix("controlnet.")], raw[n]) for n in raw if n.startswith("controlnet")
    )


def test_a_base_is_trained_from_scratch_with_its_text_encoder(tmp_path: Path, pairs: Path, base: Path) -> None:
    options: dict[str, Any] = {
        "model__from_scratch": True,
        "model__train": ("unet.*", "controlnet.*", "text_encoder.*"),
    }
    last = train(config(tmp_path / "one", pairs, base, **options))
    pipe = build_pipeline(model=str(last), device="cpu")  # such a run leaves a whole model
    assert pipe(tiny.photo(16, 16), num_inference_steps=1).image.size == (64, 64)
    again = train(config(tmp_path / "two", pairs, last, steps=1))  # which another run can go on from
    assert weights(again).keys() == weights(last).keys()


class OtherResidual(ResidualBackbone):
    """A backbone that fits where ``residual`` does."""


def test_a_checkpoint_that_needs_another_backbone_than_its_base_names(
    tmp_path: Path, pairs: Path, tiny_model: Path
) -> None:
    registry = registry_with("backbone", OtherResidual)
    run = config(tmp_path / "run", pairs, tiny_model, steps=1, model__backbone="part")
    with pytest.warns(UserWarning, match=r"names the backbone 'residual', but this trains with 'part'"):
        train(run, registry=registry)


def test_a_checkpoint_that_needs_another_upscaler_than_its_base_names(
    tmp_path: Path, pairs: Path, tiny_model: Path
) -> None:
    run = config(tmp_path / "run", pairs, tiny_model, steps=1, model__upscaler="realesrgan-x4plus")
    with pytest.warns(UserWarning, match=r"names the upscaler 'bicubic', but this trains with 'realesrgan-x4plus'"):
        TrainingRun(run, None)


@pytest.mark.parametrize("index", ["residual", {"name": "residual"}, None])
def test_the_same_backbone_is_no_other_one(tmp_path: Path, pairs: Path, tiny_model: Path, index: Any) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    changed = json.loads((base / "model_index.json").read_text()) | {"backbone": index}
    (base / "model_index.json").write_text(json.dumps(changed))
    if index is None:
        (base / "model_index.json").unlink()
    train(config(tmp_path / "run", pairs, base, steps=1, model__backbone="residual"))  # warnings are errors here


def test_a_whole_model_names_the_backbone_that_it_was_trained_with(tmp_path: Path, pairs: Path, base: Path) -> None:
    trained = {"model__from_scratch": True, "model__train": ("unet.*", "controlnet.*", "text_encoder.*")}
    run = config(tmp_path / "run", pairs, base, steps=1, model__backbone="part", **trained)
    last = train(run, registry=registry_with("backbone", OtherResidual))
    assert json.loads((last / "model_index.json").read_text())["backbone"] == "part"


def test_conditioning_widths_must_lead_to_the_latents(tmp_path: Path, pairs: Path, base: Path) -> None:
    run = config(tmp_path / "run", pairs, base, model__from_scratch=True, model__conditioning_widths=(8, 8))
    with pytest.raises(
        ConfigError, match=r"conditioning_widths has 2 levels, for 2 pixels per latent; .* has 4: give 3"
    ):
        train(run)


def test_another_fusion_is_trained(tmp_path: Path, pairs: Path, base: Path) -> None:
    options: dict[str, Any] = {
        "model__from_scratch": True,
        "model__train": ("controlnet.*", "unet.*", "text_encoder.*"),
    }
    last = train(config(tmp_path, pairs, base, model__fusion={"name": "xpsr"}, **options), Registry([]))
    assert json.loads((last / "controlnet" / "config.json").read_text())["fusion"] == {"name": "xpsr"}


@pytest.mark.parametrize("level", ["high", "low"])
def test_the_prompts_really_reach_the_loss(tmp_path: Path, pairs: Path, tiny_model: Path, level: str) -> None:
    run = TrainingRun(config(tmp_path, pairs, tiny_model, data__prompt_dropout=0.0), None)
    batch = run.data.batch([0, 1])
    found = []
    for words in ("extreme blur", "no noise"):
        texts = {"high": batch.high, "low": batch.low} | {level: [words, words]}
        inputs = run.draw(replace(batch, **texts))
        with torch.no_grad():
            found.append(run.losses(inputs)["loss_diffusion"].item())
    assert found[0] != found[1]


def test_prompts_are_dropped_by_the_share_that_was_asked_for(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    run = TrainingRun(config(tmp_path, pairs, tiny_model, data__prompt_dropout=1.0), None)
    inputs = run.draw(replace(run.data.batch([0]), high=["a cat"], low=["blurry"]))
    empty = run.backbone.encode_text([""]).embeddings
    assert torch.equal(inputs.high, empty)
    assert torch.equal(inputs.low, empty)


@pytest.mark.parametrize("others", [{}, {"constraint": {"weight": 0.0}}])
def test_terms_that_are_not_named_or_weigh_nothing_are_left_out(
    tmp_path: Path, pairs: Path, tiny_model: Path, others: dict[str, Any]
) -> None:
    train(config(tmp_path, pairs, tiny_model, loss__terms={"diffusion": {}, **others}, steps=1))
    (line,) = log_of(tmp_path)
    assert [name for name in line if name.startswith("loss_")] == ["loss_diffusion"]
    assert line["loss"] == line["loss_diffusion"]


@pytest.mark.parametrize(
    "changes", [{"loss__terms": {"diffusion": {"weighting": "min-snr"}}}, {"loss__noisiest_timestep": 500}]
)
def test_timesteps_and_their_weights(tmp_path: Path, pairs: Path, tiny_model: Path, changes: dict[str, Any]) -> None:
    run = TrainingRun(config(tmp_path, pairs, tiny_model, **changes), None)
    assert run.one_step()["loss"] > 0
    generator = torch.Generator().manual_seed(0)
    timesteps = torch.stack([run._timestep(generator) for _ in range(500)])
    assert timesteps.max() <= changes.get("loss__noisiest_timestep", 999)
    assert timesteps.min() < 50


def test_the_mean_is_learned_without_noise(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    run = TrainingRun(config(tmp_path, pairs, tiny_model, loss__mean_share=1.0, data__prompt_dropout=0.0), None)
    batch = run.data.batch([0, 1])
    one, other = (run.draw(replace(batch, positions=positions)) for positions in ([0, 1], [2, 3]))
    assert set(one.timesteps.tolist()) == {999}
    assert not torch.equal(one.noise, other.noise)
    with torch.no_grad():
        assert run.losses(one)["loss"] == run.losses(other)["loss"]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_what_is_noised_from_the_estimate_is_to_become_the_photo(
    tmp_path: Path, pairs: Path, tiny_model: Path, prediction_type: str
) -> None:
    run = TrainingRun(config(tmp_path, pairs, tiny_model, loss__estimate_share=1.0), None)
    run.schedule.prediction_type = prediction_type
    inputs = run.draw(run.data.batch([0, 1]))
    seen: list[torch.Tensor] = []

    def predict_the_photo(noisy: torch.Tensor, t: torch.Tensor, *_: object, **__: object) -> SimpleNamespace:
        seen.append(noisy)
        signal, level = run.schedule.levels(t, noisy)
        return SimpleNamespace(sample=run.schedule.target(inputs.latents, (noisy - signal * inputs.latents) / level, t))

    run.objective.unet.forward = predict_the_photo
    with torch.no_grad():
        assert run.losses(inputs)["loss_diffusion"].item() == pytest.approx(0, abs=1e-5)
    some = inputs.timesteps < run.schedule.last
    assert torch.equal(seen[0], inputs.photo[some]), "the estimate is made from the photo's own latents"


def test_bfloat16_trains_float32_weights(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    last = train(config(tmp_path, pairs, tiny_model, precision="bfloat16", steps=1))
    assert {tensor.dtype for tensor in weights(last).values()} == {torch.float32}


def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    with pytest.raises(TrainingError, match=r"no parameter matches 'controlnett\.\*'"):
        train(config(tmp_path, pairs, tiny_model, model__train=["controlnett.*"]))


def test_the_autoencoder_is_not_trained(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    message = r"no parameter matches 'vae\.\*'; names begin with unet, controlnet, text_encoder\."
    with pytest.raises(TrainingError, match=message):
        train(config(tmp_path, pairs, tiny_model, model__train=["vae.*"]))


def test_fusions_that_were_asked_for_and_are_not_there_are_named(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    with pytest.raises(TrainingError, match=r"no parameter matches 'unet\.\*fusions\*'"):
        train(config(tmp_path, pairs, tiny_model, model__train=XPSR_PARTS))


@pytest.mark.parametrize("heads", ["return_rgbs", "use_latent_pred"])
def test_a_checkpoint_without_heads_trains_without_the_constraint(
    tmp_path: Path, pairs: Path, tiny_model: Path, heads: str
) -> None:
    with Registry([]).in_force():
        unet, controlnet = read_checkpoint(tiny_model)
        without = XPSRControlNet.from_config({**controlnet.config, heads: False})
    write_checkpoint(tmp_path / "start", unet, without)
    options = {"steps": 1, "model__checkpoint": tmp_path / "start"}
    with pytest.raises(TrainingError, match=rf"'constraint' .* reads heads without which .* \({heads}\): leave it out"):
        train(config(tmp_path / "run", pairs, tiny_model, **options))
    train(config(tmp_path / "run", pairs, tiny_model, loss__terms={"diffusion": {}}, **options))


def test_another_architecture_cannot_be_taken_up(tmp_path: Path, pairs: Path, base: Path) -> None:
    options: dict[str, Any] = {"steps": 1, "model__from_scratch": True}
    train(config(tmp_path, pairs, base, **options))
    message = r"checkpoint-1 has another architecture than this config: controlnet\..* has shape .*, not .*; choose"
    with pytest.raises(TrainingError, match=message):
        train(config(tmp_path, pairs, base, model__conditioning_widths=(4, 8, 16), **options))


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        ("torch.save", OSError(errno.ENOSPC, "No space left on device")),
        ("torch.save", RuntimeError("PytorchStreamWriter failed writing file: no space left")),
        ("xpsr_sdk.training.loop.write_model", SafetensorError("I/O error: No space left on device")),
    ],
)
def test_a_full_disk_is_one_sentence_and_spares_older_checkpoints(
    tmp_path: Path, pairs: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, writer: str, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    before = weights(train(config(tmp_path, pairs, tiny_model, steps=1)))
    with monkeypatch.context() as patch:
        patch.setattr(writer, full)
        with pytest.raises(TrainingError, match=r"checkpoint-2 cannot be written: .*[Nn]o space left"):
            train(config(tmp_path, pairs, tiny_model, steps=2, keep_checkpoints=1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-1", "config.json", "log.jsonl"]
    after = weights(tmp_path / "checkpoint-1")
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    train(config(tmp_path, pairs, tiny_model, steps=2))


def test_another_choice_of_parameters_cannot_be_taken_up(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    train(config(tmp_path, pairs, tiny_model, steps=1))
    with pytest.raises(TrainingError, match="trains other parameters than this config"):
        train(config(tmp_path, pairs, tiny_model, steps=2, model__train=["controlnet.*"]))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) at step .*: try a lower learning rate"):
        train(config(tmp_path, pairs, tiny_model, steps=30, optimizer__learning_rate=10))


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    changes = {"optimizer__weight_decay": 1e300, "optimizer__learning_rate": 1.0, "steps": 1}
    with pytest.raises(TrainingError, match="are not finite after step 1, so no checkpoint is written"):
        train(config(tmp_path / "run", pairs, tiny_model, **changes))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_run_that_trains_nothing_is_refused(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    with pytest.raises(TrainingError, match="Nothing would be trained"):
        TrainingRun(config(tmp_path, pairs, tiny_model, model__train=[]))


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 10**17), ("data__workers", 10**17), ("model__conditioning_widths", [8192] * 3)]
)
def test_numbers_without_measure_are_refused(
    tmp_path: Path, pairs: Path, tiny_model: Path, field: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match="must be at most"):
        config(tmp_path, pairs, tiny_model, **{field: value})


def test_a_folder_that_is_missing_is_named(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(TrainingError, match=r"There is no folder .*nowhere"):
        train(config(tmp_path, tmp_path / "nowhere", tiny_model))


@pytest.mark.parametrize("option", [{"fusion": "xpsr"}, {"conditioning_widths": (4, 8, 8)}])
def test_options_of_a_fresh_controlnet_are_not_ignored(
    tmp_path: Path, pairs: Path, tiny_model: Path, option: dict[str, Any]
) -> None:
    (name,) = option
    with pytest.raises(ConfigError, match=rf"model\.{name} is for a fresh ControlNet"):
        train(config(tmp_path, pairs, tiny_model, **{f"model__{name}": option[name]}))


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("seed", 2**32), ("data__crop", 3), ("optimizer__learning_rate", 0)]
)
def test_a_field_out_of_range_is_named(tmp_path: Path, pairs: Path, base: Path, field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=field.replace("__", r"\.")):
        config(tmp_path, pairs, base, **{field: value})


def test_the_learning_rate_rises_and_falls() -> None:
    options = OptimizerSection(learning_rate=1.0, warmup_steps=4, schedule="cosine")
    rates = [learning_rate(options, step, 20) for step in range(20)]
    assert rates[:4] == sorted(rates[:4])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[0] < 0.25
    assert 0 < rates[-1] < 0.01
    linear = OptimizerSection(learning_rate=1.0, schedule="linear")
    assert [learning_rate(linear, step, 4) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    constant = OptimizerSection(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(constant, step, 20) for step in (0, 4, 19)] == [0.2, 1, 1]
