"""What saves memory or time in a step changes what it computes as little as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from tests.support.training_runs import config, weights
from xpsr_sdk import ConfigError, Registry, build_pipeline
from xpsr_sdk.engine.memory import LiveBytes
from xpsr_sdk.models.checkpoints import read_checkpoint
from xpsr_sdk.training.config import ModelSection
from xpsr_sdk.training.loop import TrainingRun, train
from xpsr_sdk.training.memory import optimizer_bytes, step_memory
from xpsr_sdk.training.optimizer import group_of

Run = dict[str, Any]


@pytest.fixture
def step(tmp_path: Path, pairs: Path, tiny_model: Path) -> Any:
    """A run after one step, and what the step gave."""

    def take(**options: Any) -> tuple[TrainingRun, dict[str, float]]:
        run = TrainingRun(config(tmp_path, pairs, tiny_model, **{"batch_size": 4, **options}))
        return run, run.one_step()

    return take


def test_accumulated_parts_add_up_to_the_batch(step: Any) -> None:
    (_, whole), (_, parts) = step(), step(gradient_accumulation=4)
    for name in ("loss", "loss_diffusion", "loss_constraint_pixel", "grad_norm"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)


def test_checkpointed_gradients_are_the_same(step: Any) -> None:
    (plain, _), (checkpointed, _) = step(), step(gradient_checkpointing=True)
    for name, parameter in plain.trained.items():
        torch.testing.assert_close(checkpointed.trained[name], parameter, rtol=1e-5, atol=1e-6)


def test_frozen_weights_in_half_precision_change_nothing_in_half_precision(step: Any) -> None:
    (_, plain), (run, halved) = step(precision="bfloat16"), step(precision="bfloat16", model__frozen_in_half=True)
    assert halved["loss"] == plain["loss"]
    frozen = {p.dtype for p in run.unet.parameters() if not p.requires_grad and p.ndim > 1}
    assert frozen == {torch.bfloat16}
    assert {p.dtype for p in run.trained.values()} == {torch.float32}


def test_compiled_networks_compute_the_same(step: Any) -> None:
    with torch.compiler.set_stance("force_eager"):  # the compiler itself takes minutes
        (_, compiled), (_, plain) = step(compile=True), step()
    assert compiled["loss"] == plain["loss"]


def test_lora_starts_from_the_base_and_is_merged_into_checkpoints(
    tmp_path: Path, pairs: Path, tiny_model: Path, step: Any
) -> None:
    (run, with_lora), (_, plain) = step(model__lora_rank=2), step()
    assert with_lora["loss"] == plain["loss"]
    assert with_lora["grad_norm/unet.lora"] > 0
    lora = [name for name in run.trained if group_of(name) == "unet.lora"]
    assert lora
    assert not any("pixel_attentions" in name for name in lora)
    run.save()
    before, after = weights(tiny_model), weights(tmp_path / "checkpoint-1")
    assert before.keys() == after.keys()
    changed = {name for name in before if name.startswith("unet.") and not torch.equal(before[name], after[name])}
    assert any(".attentions." in name and "to_q" in name for name in changed)
    build_pipeline(model=str(tiny_model), checkpoint=tmp_path / "checkpoint-1", device="cpu")
    with Registry([]).in_force():
        unet, _ = read_checkpoint(tmp_path / "checkpoint-1")
    x, t, text = torch.randn(1, 48, 8, 8), torch.tensor([5]), torch.randn(1, 4, 16)
    with torch.no_grad(), run.ema_weights():
        run.unet.eval()
        torch.testing.assert_close(run.unet(x, t, text).sample, unet(x, t, text).sample, rtol=1e-4, atol=1e-4)
    again = TrainingRun(run.config)
    again.resume()
    assert again.step == 1


def test_the_8_bit_optimizer_trains_and_resumes(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options: Run = {"optimizer__name": "adamw-8bit", "steps": 2, "checkpoint_every": 1}
    whole = train(config(tmp_path / "whole", pairs, tiny_model, **options))
    train(config(tmp_path / "halved", pairs, tiny_model, **options | {"steps": 1}))
    halved = train(config(tmp_path / "halved", pairs, tiny_model, **options))
    expected, found = weights(whole), weights(halved)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_half_precision_needs_a_gpu(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="precision is float16, which needs a GPU for training: use bfloat16"):
        TrainingRun(config(tmp_path, pairs, tiny_model, precision="float16"))


def test_shares_of_a_batch_must_be_whole(tmp_path: Path, pairs: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size is 4: it must be a multiple of 3"):
        TrainingRun(config(tmp_path, pairs, tiny_model, batch_size=4, gradient_accumulation=3))


@pytest.mark.parametrize("name", ["adamw", "adamw-8bit"])
def test_the_state_of_the_optimizer_is_as_large_as_promised(step: Any, name: str) -> None:
    if name == "adamw-8bit":
        pytest.importorskip("bitsandbytes")
    run, _ = step(optimizer__name=name)
    state = run.optimizer.state.values()
    # bitsandbytes' tables of quantised values are the same for all tensors, and its step is no tensor.
    tensors = [x for s in state for k, x in s.items() if isinstance(x, torch.Tensor) and "qmap" not in k]
    found = sum(x.numel() * x.element_size() for x in tensors)
    assert found == sum(optimizer_bytes(name, parameter.numel()) for parameter in run.trained.values())


def test_gradient_checkpointing_saves_what_the_model_of_memory_says(step: Any) -> None:
    found = []
    for checkpointing in (False, True):
        run, _ = step(gradient_checkpointing=checkpointing)
        inputs = run.draw(run.data.batch(range(4)))
        networks = (run.unet, run.controlnet)
        found.append(step_memory(networks, run.trained, "adamw", lambda r=run, i=inputs: r.losses(i)["loss"]))
    plain, saving = found
    assert saving.activations < 0.7 * plain.activations
    assert saving.weights == plain.weights
    assert plain.gradients == plain.ema_weights == sum(4 * p.numel() for p in run.trained.values())


def test_memory_is_counted_alike_without_content() -> None:
    def work(counted: LiveBytes) -> int:
        x = torch.randn(64, 64, requires_grad=True)
        layer = torch.nn.Linear(64, 32)
        (layer(x).relu() @ torch.randn(32, 8)).sum().backward()
        return counted.peak

    with LiveBytes() as real:
        expected = work(real)
    with FakeTensorMode(), LiveBytes() as fake:
        assert work(fake) == expected
    del expected


def test_live_bytes_are_those_of_what_is_alive() -> None:
    with LiveBytes() as counted:
        x = torch.zeros(256, dtype=torch.float32)
        y = x.view(16, 16)  # the same memory
        assert counted.live == 1024
        z = y + 1
        assert counted.live == 2048
        del z
        assert counted.live == 1024
    assert counted.peak == 2048


def test_a_preset_can_be_trained_further() -> None:
    section = ModelSection.model_validate({"base": "nano"})
    assert (section.base_folder / "model_index.json").is_file()
