"""The training of XPSR, from top to bottom."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from xpsr_sdk.config import backbone_of, read_defaults
from xpsr_sdk.contracts import Conditioning, TrainedModel, parts_of, text_encoders_of
from xpsr_sdk.data.samples import Batch
from xpsr_sdk.data.seeds import generator_for
from xpsr_sdk.engine.nonfinite import is_finite
from xpsr_sdk.errors import TrainingError
from xpsr_sdk.files.locks import folder_lock
from xpsr_sdk.models.blocks import checkpoint_gradients
from xpsr_sdk.models.checkpoints import DEFAULTS, read_json, with_own_defaults, write_model
from xpsr_sdk.models.lora import LORA_PATTERN, add_lora, merged_state
from xpsr_sdk.models.plugins_file import write_plugins
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.models.single_file import copy_part
from xpsr_sdk.plugin_system.answers import blamed_on, blamed_on_parts
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.training.checkpoints import Checkpoints
from xpsr_sdk.training.config import ModelSection, TrainConfig
from xpsr_sdk.training.data import TrainingData, batches, positions_of_process
from xpsr_sdk.training.failed_step import write_failed_step
from xpsr_sdk.training.failures import Failures
from xpsr_sdk.training.models import build_for_training, trained_index, trained_upscaler
from xpsr_sdk.training.objective import Objective, StepInputs
from xpsr_sdk.training.optimizer import gradient_norms, learning_rate, make_optimizer, select_parameters
from xpsr_sdk.training.processes import make_accelerator
from xpsr_sdk.training.run_log import RunLog
from xpsr_sdk.training.sharding import gathered, leave_shards_alone, shard_frozen
from xpsr_sdk.training.terms import Terms
from xpsr_sdk.training.validation import Validation

REMEMBERED = 100
"""How many of the last losses a new one is compared with, to detect that the run diverges."""


def train(
    config: TrainConfig,
    registry: Registry | None = None,
    on_step: Callable[[int, dict[str, float]], object] = lambda step, losses: None,
    should_stop: Callable[[], object] = lambda: False,
) -> Path:
    """Train a model, and continue from the newest undamaged checkpoint in ``config.output`` if there is one.

    If ``accelerate launch`` or ``torchrun`` started several processes, each computes a part of the images of a step.

    Args:
        config: The run.
        registry: The registry in which components are looked up. None: the built-in and the installed plug-ins.
        on_step: Called after each step, with its number and the terms of the loss.
        should_stop: Asked after each step. If the answer is true in any process, a checkpoint is written and the run
            ends; the same call goes on from there.

    Returns:
        The folder of the last checkpoint: ``checkpoint-N/`` with EMA weights.

    Raises:
        ConfigError: Options do not fit together, or need a package that is not installed.
        TrainingError: The data, the patterns or an older checkpoint do not fit, the loss is no longer finite or
            diverges, or a checkpoint cannot be written (older ones stay).
    """
    if os.environ.get("RANK", "0") != "0":  # the first process holds the folder for all
        return _train(config, registry, on_step, should_stop)
    with folder_lock(config.output, TrainingError) as is_free:
        if not is_free:
            raise TrainingError(f"Another training is writing to {config.output}: choose another output.")
        return _train(config, registry, on_step, should_stop)


def _train(
    config: TrainConfig,
    registry: Registry | None,
    on_step: Callable[[int, dict[str, float]], object],
    should_stop: Callable[[], object],
) -> Path:
    run = TrainingRun(config, registry)
    run.resume()
    run.validate()
    while run.step < config.steps:
        values = run.one_step()
        on_step(run.step, values)
        if run.step % config.log_every == 0:
            run.log.log_step(run.step, values)
        stops = run.any_process(bool(should_stop()))
        is_kept = run.step % config.checkpoint_every == 0 or run.step == config.steps or stops
        if is_kept:
            run.save()
        if stops:
            break
        run.validate()
        if is_kept:
            run.remove_old_checkpoints()
    run.log.close()
    return run.checkpoints.folder_of(run.step)


class TrainingRun:
    """The models, optimiser, EMA weights and position of a run.

    All random numbers of an image come from a generator that is seeded with the run's seed and the image's position in
    the run; the order of an epoch is drawn in the same way. So a resumed run needs no state of random generators, and
    the number of processes does not change the result.
    """

    def __init__(self, config: TrainConfig, registry: Registry | None = None) -> None:
        registry = registry or default_registry()
        self.config = config
        self.step = 0
        self.accelerator = make_accelerator(config)
        self.device = self.accelerator.device
        torch.manual_seed(config.seed)  # for the initialisation of fresh weights
        self.backbone: Any
        self.backbone, self.unet, self.controlnet = build_for_training(config.model, registry)
        self.text_encoders = text_encoders_of(self.backbone)
        self.schedule = NoiseSchedule(self.backbone.scheduler)
        frozen_dtype = getattr(torch, config.precision if config.model.frozen_in_half else "float32")
        model = TrainedModel(self.unet, self.controlnet, self.backbone, self.schedule, frozen_dtype)
        self.terms = Terms(config.loss, model, registry, config.seed)
        self._choose_parameters()
        self.model_index: dict[str, Any] | None = None
        if self.trains_text:
            self.model_index = trained_index(config.model)
        elif self.accelerator.is_main_process:
            _warn_of_other_parts(config.model)
        objective = Objective(model, config.loss, self.terms, one_step=config.one_step is not None)
        for network in (self.unet, self.controlnet, *self.text_encoders.values()):
            network.train()  # the terms of the loss decide themselves about their own networks
        leave_shards_alone(objective)
        self.objective: Any
        self.objective, self.optimizer = self.accelerator.prepare(
            objective, make_optimizer(self.trained.values(), config.optimizer)
        )
        decay = config.optimizer.ema_decay
        self.ema = EMAModel(self.trained.values(), decay=decay, foreach=True) if decay else None
        self.data = TrainingData(config.data, config.seed, registry, trained_upscaler(config.model))
        self._batches: Iterator[Batch] | None = None
        self.failures = Failures(config.data.max_failed)
        self.recent_losses: deque[float] = deque(maxlen=REMEMBERED)
        self.checkpoints = Checkpoints(config.output, config.keep_checkpoints)
        self.log = RunLog(config, self.accelerator)
        self.validation = Validation(config, self.backbone, registry) if config.validation else None

    def _choose_parameters(self) -> None:
        """Choose the trained parameters, and move all networks to the device in the right precision."""
        config = self.config
        patterns = config.model.train
        if config.model.lora_rank:
            add_lora(self.unet, config.model.lora_rank)
            patterns = (*patterns, LORA_PATTERN)
        models = {"unet": self.unet, "controlnet": self.controlnet, **self.text_encoders}
        # Not every U-Net has fusions, so one of the default patterns may match nothing.
        self.trained = select_parameters(models, patterns, each_must_match="train" in config.model.model_fields_set)
        self.trained |= self.terms.trained()
        if not self.trained:
            raise TrainingError("Nothing would be trained: name parameters in model.train, or set model.lora_rank.")
        self.shards = config.model.shard_frozen and self.accelerator.num_processes > 1
        self.trains_text = any(name.startswith("text_encoder") for name in self.trained)
        self.backbone.vae.requires_grad_(False)
        for network in (self.unet, self.controlnet):
            if config.model.frozen_in_half:
                _halve_frozen_weights(network, config.precision)
            if config.gradient_checkpointing:
                checkpoint_gradients(network)
            if config.compile:
                network.compile()
        for model in (*models.values(), self.backbone.vae, self.terms):
            model.to(self.device).to(memory_format=torch.channels_last)
        if self.shards:
            shard_frozen(self.unet, self.device, self.accelerator.num_processes)
        if config.optimizer.name == "adamw-8bit":
            # bitsandbytes makes them contiguous anyway. The memory layout changes how kernels round, so it is set here.
            for parameter in self.trained.values():
                parameter.data = parameter.data.contiguous()

    def one_step(self) -> dict[str, float]:
        """Draw a batch, take a gradient step, and update the EMA weights.

        Returns:
            The terms of the loss, the norms of the gradient in total and for each group, the learning rate, the images
            per second, and the seconds that were spent waiting for data.
        """
        began = time.perf_counter()
        key = self.config.seed, "step", self.step, self.accelerator.process_index
        torch.manual_seed(generator_for(*key).initial_seed())  # for plug-ins that use torch's global generator
        options, parts = self.config.optimizer, self.config.gradient_accumulation
        rate = learning_rate(options, self.step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms: Counter[str] = Counter()
        waited = 0.0
        for part in range(parts):
            batch, wait = self._next_batch()
            waited += wait
            with self._without_gradient_exchange() if part < parts - 1 else nullcontext():
                terms.update(self._add_gradients(batch, parts))
        self.recent_losses.append(terms["loss"])
        self.accelerator.unscale_gradients()
        by_group = gradient_norms(self.trained)
        norm = nn.utils.clip_grad_norm_(self.trained.values(), options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(self.trained.values())
        self.step += 1
        norms = {f"grad_norm/{group}": value.item() for group, value in by_group.items()}
        return {
            **terms, "grad_norm": float(norm), **norms, "learning_rate": rate,
            "images_per_second": self.config.batch_size / (time.perf_counter() - began), "data_wait": waited,
            **self.failures.values(),
        }  # fmt: skip

    def _add_gradients(self, batch: Batch, parts: int) -> dict[str, float]:
        """Add the gradients of a part of the step's images. Returns its share of each term of the loss."""
        inputs = self.draw(batch)
        with blamed_on_parts():
            terms: dict[str, Tensor] = self.objective(inputs)
        names = list(terms)
        means = self.accelerator.reduce(torch.stack([terms[name].detach() for name in names]), "mean").tolist()
        values = dict(zip(names, means, strict=True))
        self._check_loss(values["loss"], batch, inputs)
        self.accelerator.backward(terms["loss"] / parts)
        return {name: value / parts for name, value in values.items()}

    def draw(self, batch: Batch) -> StepInputs:
        """Draw the latents, noise, timesteps and encoded prompts for a batch."""
        generators = [generator_for(self.config.seed, "noise", position) for position in batch.positions]
        hr, resized, upscaled = (image.to(self.device) for image in (batch.hr, batch.resized, batch.upscaled))
        with torch.no_grad(), blamed_on("backbone", self.backbone):
            latents = self.backbone.encode(hr, upscaled, generators)
            photo = self.backbone.encode(2 * resized - 1, upscaled) if self._reads_the_photo else latents
        noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in generators]).to(latents)
        drop = self.config.data.prompt_dropout
        with torch.set_grad_enabled(self.trains_text), self.accelerator.autocast():
            high, low = (self._encode(_dropped(texts, drop, generators)) for texts in (batch.high, batch.low))
        texts = high.embeddings, low.embeddings
        timesteps = torch.stack([self._timestep(generator) for generator in generators]).to(self.device)
        share = self.config.loss.estimate_share
        from_estimate = torch.tensor([float(torch.rand((), generator=g)) < share for g in generators])
        return StepInputs(
            hr, resized, upscaled, latents, photo, noise, timesteps, *texts, from_estimate.to(self.device),
            torch.tensor(batch.positions, device=self.device), high.added,
        )  # fmt: skip

    @property
    def _reads_the_photo(self) -> bool:
        """Whether the model is given the latents of the photo itself, to estimate the mean or the result from them."""
        loss = self.config.loss
        return self.config.one_step is not None or loss.mean_share > 0 or loss.estimate_share > 0

    def losses(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Each term of the loss, with its weight, and their sum."""
        terms: dict[str, Tensor] = self.objective(inputs)
        return terms

    def save(self) -> None:
        """Write ``checkpoint-N/``.

        Raises:
            TrainingError: It cannot be written, or weights are not finite. Older checkpoints stay as they are.
        """
        if broken := [name for name, weight in self.trained.items() if not is_finite(weight)]:
            raise TrainingError(
                f"The weights {broken[0]} are not finite after step {self.step}, so no checkpoint is written: try a "
                "lower learning rate or weight decay."
            )
        if self.accelerator.is_main_process:
            self.checkpoints.write(self.step, self.write_models, self.state_dict)
        else:
            for network in (self.unet, self.controlnet):
                gathered(merged_state(network))  # the main process needs the shards of this process
        self.accelerator.wait_for_everyone()

    def write_models(self, folder: Path) -> None:
        """Write the networks with their EMA weights. If the text encoder is trained, write a complete model."""
        with self.ema_weights():
            for name, network in (("unet", self.unet), ("controlnet", self.controlnet)):
                write_model(network, folder / name, gathered(merged_state(network)))
            write_plugins(folder, (self.unet, self.controlnet, self.backbone))
            if self.config.one_step:
                own = json.dumps(self.config.one_step.defaults(self.schedule.last), indent=2) + "\n"
                (folder / DEFAULTS).write_text(own, encoding="utf-8")
            if self.trains_text:  # a complete model, which a later run can use as its base
                for part in parts_of(self.backbone):
                    if part in self.text_encoders:
                        self.text_encoders[part].save_pretrained(folder / part)
                    else:
                        copy_part(self.config.model.base_folder / part, folder / part)
                assert self.model_index is not None
                index = json.dumps(with_own_defaults(self.model_index, folder), indent=2) + "\n"
                (folder / "model_index.json").write_text(index, encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """Everything that the run needs to continue, except its config."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "weights": {name: parameter.detach() for name, parameter in self.trained.items()},
            "loss_terms": self.terms.state(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "recent_losses": list(self.recent_losses),
        }

    def load_state_dict(self, state: Mapping[str, Any], source: Path) -> None:
        """Restore the state of a run.

        Args:
            state: The result of ``state_dict``.
            source: The checkpoint that it was read from, for error messages.

        Raises:
            TrainingError: The parameters in ``state`` are not those that are trained, or have other shapes.
        """
        own = (self.trained | self.terms.state(), state["weights"] | state.get("loss_terms", {}))
        expected, found = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in own)
        if found.keys() != expected.keys():
            raise TrainingError(f"{source} trains other parameters than this config: choose another output.")
        if found != expected:
            name = next(name for name in found if found[name] != expected[name])
            raise TrainingError(
                f"{source} has another architecture than this config: {name} has shape"
                f" {tuple(found[name])}, not {tuple(expected[name])}; choose another output."
            )
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["weights"][name])
        for name, buffer in self.terms.state().items():
            buffer.copy_(state["loss_terms"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            if state["ema"] is None:
                raise TrainingError(
                    f"{source} holds no EMA weights: set optimizer.ema_decay to 0, or choose another output."
                )
            self.ema.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.recent_losses.extend(state["recent_losses"])
        self.step = state["step"]

    def resume(self) -> None:
        """Continue from the newest undamaged checkpoint in the output folder, if there is one.

        Raises:
            TrainingError: Its parameters are not those that are trained, or have other shapes; or every checkpoint is
                damaged.
        """
        if self.accelerator.is_main_process:
            self.checkpoints.remove_partial()
        self.accelerator.wait_for_everyone()
        if newest := self.checkpoints.newest():
            self.load_state_dict(self.checkpoints.read_state(newest, self.device), newest)
        self.log.start(self.step)

    def validate(self) -> None:
        """Validate on held-out images, if this step is due and was not validated before."""
        section, validation = self.config.validation, self.validation
        if section is None or validation is None or self.step % section.every:
            return
        is_done = self.log.has_validation(self.step)
        self.accelerator.wait_for_everyone()  # all processes must read the log before one writes to it
        # A sharded network needs all processes.
        if not is_done and (self.shards or self.accelerator.is_main_process):
            with self.ema_weights():
                metrics, grid, restored = validation.run(self.unet, self.controlnet, self.accelerator.autocast())
            if self.accelerator.is_main_process:
                self.log.log_validation(self.step, metrics, grid, restored if section.keep else ())
        self.accelerator.wait_for_everyone()

    def any_process(self, wish: bool) -> bool:
        """Whether a wish is true in any process."""
        if self.accelerator.num_processes == 1:
            return wish
        count: Tensor = self.accelerator.reduce(torch.tensor(float(wish), device=self.device), "sum")
        return bool(count.item())

    def remove_old_checkpoints(self) -> None:
        """Remove all checkpoints except the newest ones and the best."""
        if self.accelerator.is_main_process:
            validation = self.validation
            best = self.log.best_step(validation.best, self.checkpoints.steps()) if validation else None
            self.checkpoints.remove_old(best)

    def ema_weights(self) -> AbstractContextManager[None]:
        """Within the block, the networks have their EMA weights, if there are any."""
        return nullcontext() if self.ema is None else _with_ema_weights(self.ema, list(self.trained.values()))

    def _next_batch(self) -> tuple[Batch, float]:
        """The images of this process in the next part of a step, and the seconds that it waited for them."""
        began = time.perf_counter()
        if self._batches is None:
            self._batches = batches(self.data, self._positions(), self.device.type == "cuda")
        batch = next(self._batches)
        self.failures.add(batch)
        return batch, time.perf_counter() - began

    def _positions(self) -> Iterator[range]:
        """The positions of this process's images for each part of each step, from this step to the last."""
        config, accelerator = self.config, self.accelerator
        return positions_of_process(
            accelerator.process_index,
            accelerator.num_processes,
            config.batch_size,
            range(self.step * config.gradient_accumulation, config.steps * config.gradient_accumulation),
            config.gradient_accumulation,
        )

    def _without_gradient_exchange(self) -> AbstractContextManager[Any]:
        """Within the block, gradients are not averaged over processes, which is needed only in a step's last part."""
        context: AbstractContextManager[Any] = self.accelerator.no_sync(self.objective)
        return context

    def _check_loss(self, loss: float, batch: Batch, inputs: StepInputs) -> None:
        recent = self.recent_losses
        problem, advice = "", "try a lower learning rate"
        if not math.isfinite(loss):
            problem = f"The loss is {loss} at step {self.step}"
            if broken := [name for name, tensor in inputs.tensors().items() if not is_finite(tensor)]:
                problem += f" (not finite are already its inputs: {', '.join(broken)})"
        elif len(recent) == REMEMBERED:
            mean, spread = statistics.mean(recent), statistics.stdev(recent)
            if loss > mean + self.config.optimizer.divergence * spread:
                problem = f"The loss diverges at step {self.step}: it is {loss:.4g}, and was {mean:.4g} on average"
                advice = "try a lower learning rate, or a larger optimizer.divergence"
        if problem:
            where = self.config.output / f"failed-step-{self.step}"
            if self.accelerator.is_main_process:
                write_failed_step(where, batch, inputs)
            raise TrainingError(f"{problem}: {advice}. The batch is kept in {where}.")

    def _timestep(self, generator: torch.Generator) -> Tensor:
        loss, last = self.config.loss, self.schedule.last
        if one_step := self.config.one_step:
            return torch.tensor(last if one_step.timestep is None else min(one_step.timestep, last))
        noisiest = last if loss.noisiest_timestep is None else min(loss.noisiest_timestep, last)
        timestep = torch.randint(noisiest + 1, (), generator=generator)
        for_mean = torch.rand((), generator=generator) < loss.mean_share
        return torch.where(for_mean, last, timestep)

    def _encode(self, texts: list[str]) -> Conditioning:
        unique = sorted(set(texts))
        with blamed_on("backbone", self.backbone):
            encoded: Conditioning = self.backbone.encode_text(unique)
        each = [unique.index(text) for text in texts]
        return Conditioning(encoded.embeddings[each], {name: x[each] for name, x in encoded.added.items()})


def _warn_of_other_parts(section: ModelSection) -> None:
    """Warn that checkpoints, which are not complete models, need parts that the base model does not name."""
    path = section.base_folder / "model_index.json"
    if not path.is_file():
        return
    index = read_json(path)
    named = {"backbone": backbone_of(index), "upscaler": read_defaults(index).upscaler}
    for kind, of_base in named.items():
        chosen = getattr(section, kind)
        own, trained = (part if isinstance(part, dict) else {"name": part} for part in (of_base, chosen))
        if chosen is not None and own != trained:
            warnings.warn(
                f"{section.base} names the {kind} {of_base!r}, but this trains with {chosen!r}. To use its checkpoints,"
                f" set {kind} = {chosen!r} (in build_pipeline, or for xpsr upscale --config), or write it into the "
                "base's model_index.json.",
                stacklevel=2,
            )


def _halve_frozen_weights(network: nn.Module, precision: str) -> None:
    """Store frozen matrices in the precision of autocast, which would round them anyway. Vectors stay in float32."""
    for parameter in network.parameters():
        if not parameter.requires_grad and parameter.ndim > 1:
            parameter.data = parameter.data.to(getattr(torch, precision))


@contextmanager
def _with_ema_weights(ema: EMAModel, parameters: list[nn.Parameter]) -> Iterator[None]:
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


def _dropped(texts: list[str], share: float, generators: Sequence[torch.Generator]) -> list[str]:
    kept = [float(torch.rand((), generator=generator)) >= share for generator in generators]
    return [text if keep else "" for text, keep in zip(texts, kept, strict=True)]
