"""The training of XPSR, from top to bottom."""

from __future__ import annotations

import fnmatch
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch import Tensor, nn

from xpsr_sdk.build import build_for_training
from xpsr_sdk.data.pairs import Batch, PairFolder
from xpsr_sdk.data.seeds import generator_for
from xpsr_sdk.devices import find_device
from xpsr_sdk.errors import TrainingError, one_line
from xpsr_sdk.evaluation.perceptual import Perceptual
from xpsr_sdk.models.checkpoints import whole_folder, write_model
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.registry import Registry
from xpsr_sdk.training.config import OptimizerSection, TrainConfig
from xpsr_sdk.training.losses import constraint_losses, diffusion_loss, timestep_weights


def train(
    config: TrainConfig,
    registry: Registry | None = None,
    on_step: Callable[[int, dict[str, float]], object] = lambda step, losses: None,
) -> Path:
    """Train, going on from the newest checkpoint in ``config.output`` if there is one.

    Args:
        config: The run.
        registry: Where components are looked up; None: the built-in and the installed plug-ins.
        on_step: Called after each step, with its number and the terms of the loss.

    Returns:
        The folder of the last checkpoint: ``checkpoint-N/`` with averaged weights.

    Raises:
        TrainingError: The data, the patterns or an older checkpoint do not fit, the loss is no longer finite, or a
            checkpoint cannot be written (older ones stay).
    """
    torch.manual_seed(config.seed)
    run = TrainingRun(config, registry)
    run.resume()
    while run.step < config.steps:
        losses = run.one_step()
        on_step(run.step, losses)
        if run.step % config.log_every == 0:
            run.log(losses)
        if run.step % config.checkpoint_every == 0 or run.step == config.steps:
            run.save()
    return run.folder_of(run.step)


class TrainingRun:
    """Models, optimiser, averages and position of a run.

    Everything random in a step is drawn from a generator that is seeded with the run's seed and the step's number, and
    likewise the order of an epoch, so that a resumed run needs no other state than the numbers in it.
    """

    def __init__(self, config: TrainConfig, registry: Registry | None) -> None:
        self.config = config
        self.step = 0
        self.device = find_device(config.device)
        self.backbone: Any
        self.backbone, self.unet, self.controlnet = build_for_training(config.model, registry)
        self.models: dict[str, nn.Module] = {
            "unet": self.unet,
            "controlnet": self.controlnet,
            "text_encoder": self.backbone.text_encoder,
        }
        _check_heads(config, self.controlnet.config)
        # Not every model has fusions in its U-Net, so that one of the default patterns may match nothing.
        chosen_by_user = "train" in config.model.model_fields_set
        self.trained = select_parameters(self.models, config.model.train, each_must_match=chosen_by_user)
        self.backbone.vae.requires_grad_(False)
        for model in (*self.models.values(), self.backbone.vae):
            model.to(self.device).to(memory_format=torch.channels_last)
        self.trains_text = any(name.startswith("text_encoder.") for name in self.trained)
        parameters = list(self.trained.values())
        options = config.optimizer
        self.optimizer = torch.optim.AdamW(
            parameters, lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay, fused=True
        )
        self.ema = EMAModel(parameters, decay=options.ema_decay, foreach=True)
        self.schedule = NoiseSchedule(self.backbone.scheduler)
        self.perceptual: Perceptual | None = None
        if config.loss.perceptual_weight:
            self.perceptual = Perceptual("lpips", weights=config.loss.perceptual_weights, device=self.device)
        data = config.data
        self.pairs = PairFolder(data.folders, data.crop, data.hr_as_input, data.keep_in_memory)
        self._order_of = lru_cache(maxsize=2)(self._draw_order)

    def one_step(self) -> dict[str, float]:
        """Draw a batch, take a gradient step, and move the averages along."""
        generator = generator_for(self.config.seed, "step", self.step)
        batch = self.pairs.batch(self._indices(), generator)
        options = self.config.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(options, self.step, self.config.steps)
        losses = self.losses(self.draw(batch, generator))
        if not torch.isfinite(losses["loss"]):
            raise TrainingError(f"The loss is {losses['loss'].item()} at step {self.step}: try a lower learning rate.")
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.trained.values(), options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.trained.values())
        self.step += 1
        return {name: value.item() for name, value in losses.items()} | {"grad_norm": norm.item()}

    def draw(self, batch: Batch, generator: torch.Generator) -> StepInputs:
        """Latents, noise, timesteps and encoded prompts for a batch."""
        hr, lr = batch.hr.to(self.device), batch.lr.to(self.device)
        with torch.no_grad():
            latents = self.backbone.encode(hr, lr, [generator] * len(hr))
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        drop = self.config.data.prompt_dropout
        with torch.set_grad_enabled(self.trains_text), self._autocast():
            high = self._encode(_dropped(batch.high, drop, generator))
            low = self._encode(_dropped(batch.low, drop, generator))
        return StepInputs(hr, lr, latents, noise, self._timesteps(len(hr), generator), high, low)

    def losses(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Each term of the loss, already weighted, and their sum."""
        schedule, loss, t = self.schedule, self.config.loss, inputs.timesteps
        noisy = schedule.add_noise(inputs.latents, inputs.noise, t)
        if loss.mean_share:
            # All noise, no signal: the best guess is the mean, and the middle of the noise says so best.
            noisy = torch.where((t == schedule.last).view(-1, 1, 1, 1), 0.0, noisy)
        with self._autocast():
            out = self.controlnet(noisy, t, inputs.high, inputs.lr, inputs.low, heads=loss.constraint_weight > 0)
            residuals = out.down_block_res_samples, out.mid_block_res_sample
            prediction = self.unet(noisy, t, inputs.high, inputs.low, *residuals).sample.float()
        target = schedule.target(inputs.latents, inputs.noise, t)
        pixel, latent = constraint_losses(out.rgbs, out.latents, inputs.hr, inputs.latents)
        terms = {
            "loss_diffusion": diffusion_loss(prediction, target, timestep_weights(schedule, t, loss), loss.error),
            "loss_dfc_pixel": loss.constraint_weight * pixel,
            "loss_dfc_latent": loss.constraint_weight * latent,
        }
        if self.perceptual:
            clean = schedule.clean(prediction, noisy, t)
            terms["loss_perceptual"] = loss.perceptual_weight * self._perceptual_loss(clean, inputs)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _perceptual_loss(self, clean: Tensor, inputs: StepInputs) -> Tensor:
        """LPIPS of the decoded clean estimates. Left out at the last timestep, whose estimate is to stay the mean."""
        assert self.perceptual is not None
        images = self.backbone.decode(clean, inputs.lr)
        with self._autocast():
            distances = self.perceptual.distance((images + 1) / 2, (inputs.hr + 1) / 2)
        return (distances * (inputs.timesteps < self.schedule.last)).mean()

    def save(self) -> None:
        """Write ``checkpoint-N/``: averaged weights in the published form, and ``state.pt`` to go on from.

        Raises:
            TrainingError: It cannot be written; older checkpoints stay as they are.
        """
        parameters = self.trained.values()
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        target = self.folder_of(self.step)
        with _writing(target), whole_folder(target) as folder:
            write_model(self.unet, folder / "unet")
            write_model(self.controlnet, folder / "controlnet")
            if self.trains_text:
                self._add_rest_of_model(folder)
            self.ema.restore(parameters)
            weights = {name: parameter.detach() for name, parameter in self.trained.items()}
            state = {"step": self.step, "weights": weights, "optimizer": self.optimizer.state_dict()}
            torch.save(state | {"ema": self.ema.state_dict()}, folder / "state.pt")
        for old in self._checkpoints()[: -self.config.keep_checkpoints]:
            shutil.rmtree(old)

    def _add_rest_of_model(self, folder: Path) -> None:
        """A run that trains its own text encoder leaves whole models: a later run can take them as its base."""
        base = self.config.model.base
        self.backbone.text_encoder.save_pretrained(folder / "text_encoder")
        for part in ("tokenizer", "scheduler", "vae"):
            shutil.copytree(base / part, folder / part)
        shutil.copy(base / "model_index.json", folder)

    def resume(self) -> None:
        """Go on from the newest checkpoint in the output folder, if there is one.

        Raises:
            TrainingError: It holds other parameters than those that are trained, or of other shapes.
        """
        if not (checkpoints := self._checkpoints()):
            return
        state = torch.load(checkpoints[-1] / "state.pt", map_location=self.device, weights_only=True)
        found, expected = ({n: x.shape for n, x in ws.items()} for ws in (state["weights"], self.trained))
        if found.keys() != expected.keys():
            raise TrainingError(f"{checkpoints[-1]} trains other parameters than this config: choose another output.")
        if found != expected:
            name = next(name for name in found if found[name] != expected[name])
            raise TrainingError(
                f"{checkpoints[-1]} is of another architecture than this config: {name} has shape"
                f" {tuple(found[name])}, not {tuple(expected[name])}; choose another output."
            )
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.step = state["step"]

    def log(self, losses: dict[str, float]) -> None:
        """Append a line to ``log.jsonl``."""
        rate = self.optimizer.param_groups[0]["lr"]
        line = json.dumps({"step": self.step, "learning_rate": rate, **losses})
        target = self.config.output / "log.jsonl"
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def folder_of(self, step: int) -> Path:
        """Where the checkpoint after ``step`` steps is."""
        return self.config.output / f"checkpoint-{step}"

    def _checkpoints(self) -> list[Path]:
        found = [p for p in self.config.output.glob("checkpoint-*") if (p / "state.pt").is_file()]
        return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))

    def _indices(self) -> list[int]:
        """This step's images: an epoch is a random order of all, and a batch may span two epochs."""
        size, first = len(self.pairs), self.step * self.config.batch_size
        positions = range(first, first + self.config.batch_size)
        return [self._order_of(i // size)[i % size] for i in positions]

    def _draw_order(self, epoch: int) -> list[int]:
        generator = generator_for(self.config.seed, "epoch", epoch)
        order: list[int] = torch.randperm(len(self.pairs), generator=generator).tolist()
        return order

    def _timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        loss, last = self.config.loss, self.schedule.last
        noisiest = last if loss.noisiest_timestep is None else min(loss.noisiest_timestep, last)
        timesteps = torch.randint(noisiest + 1, (count,), generator=generator)
        for_mean = torch.rand(count, generator=generator) < loss.mean_share
        timesteps = torch.where(for_mean, last, timesteps)
        return timesteps.to(self.device)

    def _encode(self, texts: list[str]) -> Tensor:
        unique = sorted(set(texts))
        embeddings: Tensor = self.backbone.encode_text(unique).embeddings
        return embeddings[[unique.index(text) for text in texts]]

    def _autocast(self) -> torch.autocast:
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)


@dataclass(frozen=True)
class StepInputs:
    """What the losses of a step are computed from.

    Attributes:
        hr: B 3 H W in [-1, 1].
        lr: B 3 H W in [0, 1].
        latents: B C h w.
        noise: B C h w.
        timesteps: B.
        high: B T D.
        low: B T D.
    """

    hr: Tensor
    lr: Tensor
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    high: Tensor
    low: Tensor


def select_parameters(
    models: dict[str, nn.Module], patterns: tuple[str, ...], each_must_match: bool = True
) -> dict[str, nn.Parameter]:
    """Freeze everything but the parameters whose names (``unet.up_blocks.0...``) match a pattern.

    Raises:
        TrainingError: A pattern matches nothing, though each must match.
    """
    named = {f"{prefix}.{n}": p for prefix, model in models.items() for n, p in model.named_parameters()}
    for pattern in patterns:
        if each_must_match and not fnmatch.filter(named, pattern):
            raise TrainingError(f"model.train: no parameter matches {pattern!r}; names begin with {', '.join(models)}.")
    chosen = {n: p for n, p in named.items() if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)}
    for parameter in named.values():
        parameter.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen


def learning_rate(options: OptimizerSection, step: int, steps: int) -> float:
    """The learning rate of a step: a linear rise, then constant or half a cosine down to zero."""
    rise = min(1.0, (step + 1) / (options.warmup_steps + 1))
    fall = 0.5 * (1 + math.cos(math.pi * step / steps)) if options.schedule == "cosine" else 1.0
    return options.learning_rate * rise * fall


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn what goes wrong in the block into a ``TrainingError`` about ``target``."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: a full disk in torch and in safetensors
        raise TrainingError(f"{target} cannot be written: {one_line(error)}") from error


def _check_heads(config: TrainConfig, controlnet: Any) -> None:
    """The Degradation-Free Constraint needs what a ControlNet may have been made without."""
    missing = [name for name in ("return_rgbs", "use_latent_pred") if not controlnet[name]]
    if missing and config.loss.constraint_weight:
        raise TrainingError(
            f"loss.constraint_weight is {config.loss.constraint_weight}, but the ControlNet of"
            f" {config.model.checkpoint or config.model.base} was made without the heads that the constraint reads"
            f" ({', '.join(missing)}): set it to 0."
        )


def _dropped(texts: list[str], share: float, generator: torch.Generator) -> list[str]:
    kept: Iterator[bool] = iter((torch.rand(len(texts), generator=generator) >= share).tolist())
    return [text if next(kept) else "" for text in texts]
