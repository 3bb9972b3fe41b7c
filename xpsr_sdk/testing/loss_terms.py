"""Checks a loss term against the contract of ``xpsr_sdk.LossTerm``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from xpsr_sdk.contracts import TrainedModel
from xpsr_sdk.data.images import to_tensor
from xpsr_sdk.models.checkpoints import WEIGHTS
from xpsr_sdk.models.loading import without_bars
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.restoring import check_training
from xpsr_sdk.testing.subject import Choice, Subject, check_construction, require
from xpsr_sdk.testing.tensors import (
    generators,
    global_random_state_kept,
    inputs_kept,
    noise,
    require_close,
    same,
)
from xpsr_sdk.testing.tiny import TEXT_WIDTH, networks, photo, write_base_model
from xpsr_sdk.training.objective import Step, StepInputs
from xpsr_sdk.training.terms import parameters_of_model

SIDE = 32
"""Width and height of the images, in pixels."""
CLOSE = 1e-3
"""How far losses that should be equal may differ, relative to the larger one."""


def check_loss_term(choice: Choice, registry: Registry | None = None) -> None:
    """Check a term against the whole contract of [LossTerm][xpsr_sdk.contracts.LossTerm].

    Args:
        choice: Its name, or ``{"name": ..., <options>}``.
        registry: The registry that holds it, for instance ``Registry([my_plugin])``. None: the installed plug-ins.

    Raises:
        ContractViolation: A clause is broken; the message says which one, and how to fix it.
    """
    subject = Subject.of("loss_term", choice, registry)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with without_bars():
            write_base_model(folder / "base")
        bench = _Bench(subject, folder / "base")
        _construction(bench)
        for check in (_module, _heads, _answer, _inputs, _determinism, _no_detail, _mean):
            check(bench)
        for check in (_gradients, _frozen, _state, _device, _precision):
            check(bench)
        _training(subject, folder)


class _Bench:
    """A tiny model, and steps of it, with which a term is tried."""

    def __init__(self, subject: Subject, base: Path) -> None:
        self.subject = subject
        backbone = subject.registry.create("backbone", "residual")
        with without_bars():
            backbone.load(base, torch.float32)
        torch.manual_seed(0)
        unet, controlnet = networks()
        schedule = NoiseSchedule(backbone.scheduler)
        self.model = TrainedModel(unet, controlnet, backbone, schedule, torch.float32)

    def build(self, seed: int = 0) -> Any:
        """A fresh term, as a run with that seed builds it."""
        torch.manual_seed(seed)
        return self.subject.build(self.model)

    def step(
        self, images: tuple[int, ...] = (0, 1), timesteps: tuple[int, ...] = (100, 700), heads: bool = True
    ) -> Step:
        """The step of these images, each at its timestep."""
        photos = torch.cat([to_tensor(photo(SIDE, SIDE, seed)) for seed in images])
        resized = interpolate(interpolate(photos, scale_factor=0.5, mode="area"), scale_factor=2)
        latents, of_photo = (self.model.backbone.encode(2 * x - 1, resized) for x in (photos, resized + 0.01))
        noises, texts = (
            torch.cat([noise(1, *shape, seed=seed) for seed in images])
            for shape in (latents.shape[1:], (7, TEXT_WIDTH))
        )
        t = torch.tensor(timesteps)
        inputs = StepInputs(
            hr=2 * photos - 1,
            resized=resized,
            upscaled=resized,
            latents=latents,
            photo=of_photo,
            noise=noises,
            timesteps=t,
            high=texts,
            low=texts.flip(1),
            from_estimate=t < 0,
            positions=torch.tensor(images),
        )
        noisy = self.model.schedule.add_noise(latents, noises, t)
        return Step(inputs, self.model, latents, noisy, heads=heads)

    def loss(self, term: Any, step: Step, seeds: tuple[int, ...] = (0, 1)) -> Tensor:
        """What a term gives for a step, in sum."""
        return torch.stack(list(_named(term(step, generators(*seeds))).values())).sum()

    @contextmanager
    def clause(self, name: str) -> Iterator[None]:
        """See ``Subject.clause``."""
        with self.subject.clause(name):
            yield


def _named(given: Any) -> Mapping[str, Tensor]:
    return given if isinstance(given, Mapping) else {"": given}


def _construction(bench: _Bench) -> None:
    networks = (bench.model.unet, bench.model.controlnet)

    def state() -> list[Any]:
        values = [{name: x.clone() for name, x in network.state_dict().items()} for network in networks]
        return [*values, [(p.requires_grad, p.dtype) for network in networks for p in network.parameters()]]

    before = state()
    check_construction(bench.subject, bench.model)
    with bench.subject.clause("construction"):
        require(same(state(), before), "it changed the model that is trained: make a copy with copy.deepcopy first")


def _module(bench: _Bench) -> None:
    with bench.clause("module"):
        term = bench.build()
        require(isinstance(term, nn.Module), f"it is a {type(term).__name__}, not a torch.nn.Module")
        shared = parameters_of_model(term, bench.model)
        require(not shared, f"its {shared[:1]} are parameters of the model itself")


def _heads(bench: _Bench) -> None:
    with bench.clause("answer"):
        term = bench.build()
        term(bench.step(), generators(0, 1))
    with bench.clause("heads"):
        if not getattr(term, "reads_heads", False):
            term(bench.step(heads=False), generators(0, 1))


def _answer(bench: _Bench) -> None:
    with bench.clause("answer"):
        given = bench.build()(bench.step(), generators(0, 1))
        require(
            isinstance(given, Tensor | Mapping), f"it gave a {type(given).__name__}, not a tensor or a dict of them"
        )
        require(bool(_named(given)), "it gave an empty dict")
        for name, value in _named(given).items():
            require(isinstance(name, str) and (name == "" or name.isidentifier()), f"it gave a part named {name!r}")
            require(isinstance(value, Tensor), f"it gave a {type(value).__name__}, not a tensor")
            require(value.ndim == 0, f"it gave a tensor of shape {tuple(value.shape)}, not one without dimensions")
            exact = value.dtype in (torch.float32, torch.float64)
            require(exact and bool(value.isfinite()), f"it gave {value.item()} in {value.dtype}")


def _inputs(bench: _Bench) -> None:
    with bench.clause("inputs"), torch.no_grad():
        step = bench.step()
        images = ("hr", "resized", "upscaled", "images", "references")
        others = ("latents", "noisy", "prediction", "target", "clean", "timesteps", "has_detail")
        own = generators(0, 1)
        given = list(own)
        with inputs_kept(**{name: getattr(step, name) for name in (*images, *others)}):
            bench.build()(step, given)
        require(given == own, "it changed the list of generators")


def _determinism(bench: _Bench) -> None:
    with bench.clause("determinism"):
        term, again = bench.build(), bench.build()
        step = bench.step()
        with global_random_state_kept():
            first = bench.loss(term, step)
        require(same(first.detach(), bench.loss(again, step).detach()), "the same step and seed gave another loss")


def _no_detail(bench: _Bench) -> None:
    with bench.clause("no detail"):
        last = bench.model.schedule.last
        value = bench.loss(bench.build(), bench.step(timesteps=(last, last)))
        require(bool(value.isfinite()), f"a step without detail gave {value.item()}")


def _mean(bench: _Bench) -> None:
    with bench.clause("mean"):
        for timesteps in ((100, 700), (100, bench.model.schedule.last)):
            both = bench.loss(bench.build(), bench.step(timesteps=timesteps))
            each = [bench.loss(bench.build(), bench.step((i,), (timesteps[i],)), (i,)) for i in range(2)]
            _require_equal(both, torch.stack(each).mean(), "two images do not give the mean of each alone")


def _require_equal(found: Tensor, expected: Tensor, problem: str) -> None:
    """Require losses that differ by rounding only, however small they are."""
    size = float(expected.detach().abs().clamp(min=1e-12))
    require_close(found / size, expected / size, CLOSE, problem)


def _gradients(bench: _Bench) -> None:
    term, step = bench.build(), bench.step()
    own = {name: parameter for name, parameter in term.named_parameters() if parameter.requires_grad}
    _change_trained(term)  # before which a critic may agree with the frozen network that it starts from
    with bench.clause("gradients"):
        loss = bench.loss(term, step)
        require(loss.requires_grad, "it gave a loss without gradients")
        of_model = [*bench.model.unet.parameters(), *bench.model.controlnet.parameters()]
        kept = all(parameter.grad is None for parameter in (*of_model, *own.values()))
        require(kept, "it called backward() itself, which adds to the gradients of the whole loss")
        found = torch.autograd.grad(loss, [*of_model, *own.values()], allow_unused=True)
        reached = any(g is not None and bool(g.abs().sum() > 0) for g in found[: len(of_model)])
        require(reached, "its gradients do not reach the model")
    with bench.clause("trained parameters"):
        without = [name for name, g in zip(own, found[len(of_model) :], strict=True) if g is None]
        require(not without, f"{', '.join(without[:3])} require gradients but get none")
        late = [name for name, parameter in term.named_parameters() if parameter.requires_grad and name not in own]
        require(not late, f"{', '.join(late[:3])} came with the first step, when the optimiser was there already")
        half = [name for name, parameter in own.items() if parameter.dtype != torch.float32]
        require(not half, f"{', '.join(half[:3])} are trained, but not in float32")


@torch.no_grad()
def _change_trained(term: nn.Module) -> None:
    """Change the trained parameters, as training would."""
    for parameter in term.parameters():
        if parameter.requires_grad:
            parameter.add_(0.01 * torch.randn_like(parameter))


def _frozen(bench: _Bench) -> None:
    with bench.clause("frozen parameters"):
        one, other = bench.build(seed=0), bench.build(seed=1)
        pairs = zip(one.named_parameters(), other.parameters(), strict=True)
        differ = [name for (name, a), b in pairs if not a.requires_grad and not same(a.detach(), b.detach())]
        require(not differ, f"{', '.join(differ[:3])} differ when the term is built again")


@torch.no_grad()
def _state(bench: _Bench) -> None:
    with bench.clause("state"):
        term, fresh, step = bench.build(), bench.build(seed=1), bench.step()
        bench.loss(term, step)
        _change_trained(term)
        frozen = {name for name, parameter in term.named_parameters() if not parameter.requires_grad}
        fresh.load_state_dict({n: x for n, x in term.state_dict().items() if n not in frozen}, strict=False)
        second = bench.step((2, 3))
        problem = "after a step, a fresh term with the same parameters and buffers gives another loss"
        _require_equal(bench.loss(fresh, second), bench.loss(term, second), problem)


def _device(bench: _Bench) -> None:
    with bench.clause("device"):
        term = bench.build()
        loose = [
            f"{n}.{k}".strip(".") for n, m in term.named_modules() for k, x in vars(m).items() if isinstance(x, Tensor)
        ]
        require(not loose, f"{', '.join(loose[:3])} would stay behind on the CPU")


def _precision(bench: _Bench) -> None:
    with bench.clause("precision"), torch.autocast("cpu", torch.bfloat16):
        value = bench.loss(bench.build(), bench.step())
        require(bool(value.isfinite()), f"in bfloat16 it gave {value.item()}")


def _training(subject: Subject, folder: Path) -> None:
    """Two steps at once must end where one and another one end that resumes it."""
    with subject.clause("training"):
        half = lambda hr: interpolate(hr, scale_factor=0.5)  # noqa: E731
        term = {"name": subject.name, **subject.options}
        options: dict[str, Any] = {"loss": {"terms": {"term": term}}, "checkpoint_every": 1}
        model = {"base": folder / "base", "backbone": "residual"}
        whole = check_training(folder, subject.registry, model, half, **options)
        expected = (whole / "unet" / WEIGHTS).read_bytes()
        shutil.rmtree(whole)
        resumed = check_training(folder, subject.registry, model, half, **options)
        require((resumed / "unet" / WEIGHTS).read_bytes() == expected, "a resumed run ended with other weights")
