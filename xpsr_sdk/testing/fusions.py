"""Checks a fusion attention against the contract of ``xpsr_sdk.FusionAttention``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import interpolate

from xpsr_sdk.contracts import AttentionSite
from xpsr_sdk.models.fusion import transformer_like
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.restoring import check_restoration, check_training
from xpsr_sdk.testing.subject import Choice, Subject, check_construction, for_all, require
from xpsr_sdk.testing.tensors import (
    devices,
    global_random_state_kept,
    inputs_kept,
    noise,
    require_close,
    require_tensor,
    same,
)
from xpsr_sdk.testing.tiny import shake, write_base_model

SITES = tuple(
    AttentionSite(
        place=place,
        channels=heads * head_dim,
        heads=heads,
        head_dim=head_dim,
        text_width=text_width,
        depth=depth,
        norm_groups=groups,
        linear_projection=linear,
        upcast_attention=upcast,
    )
    for place, heads, head_dim, text_width, depth, groups, linear, upcast in (
        ("mid_block.attentions.0", 2, 4, 6, 1, 4, False, False),
        ("down_blocks.1.attentions.0", 1, 12, 16, 2, 3, True, True),
    )
)
"""Two sites like those of Stable Diffusion 1.x and of 2.x, but smaller."""
STEPS = (1e-2, 1e-3)
"""Step sizes of finite differences: the larger suits fusions that compute in float32 inside, the smaller suits those
with kinks."""
ROUNDING = 1e-6
"""How much rounding to float32 may change a slope, as a share of the loss, at the larger step."""


def check_fusion_attention(
    choice: Choice, registry: Registry | None = None, *, identity_at_start: bool = False
) -> None:
    """Check a fusion against the whole contract of [FusionAttention][xpsr_sdk.contracts.FusionAttention].

    Args:
        choice: Its name, or ``{"name": ..., <options>}``.
        registry: The registry that holds it, for instance ``Registry([my_plugin])``. None: the installed plug-ins.
        identity_at_start: Whether it promises that a fresh model computes exactly what its base model computes.

    Raises:
        ContractViolation: A clause is broken; the message says which one, and how to fix it.
    """
    subject = Subject.of("fusion_attention", choice, registry)
    for site in SITES:
        check_construction(subject, site)
        _module(subject, site)
        with subject.clause("exceptions"), torch.no_grad():
            plain = _FusionAtSite(subject, site)
            plain(*plain.inputs(1, 4, 4))
        for check in (_initialisation, _shape, _without_low, _dtype, _device, _inputs, _determinism, _batch):
            check(_FusionAtSite(subject, site))
        for check in (_memory_layout, _control_flow, _gradients, _state_dict):
            check(_FusionAtSite(subject, site))
        if identity_at_start:
            _identity(_FusionAtSite(subject, site))
    _end_to_end(subject)


class _FusionAtSite:
    """A fusion with the attention of its site. ``shaken`` adds noise to all of its weights, as training would."""

    def __init__(self, subject: Subject, site: AttentionSite, shaken: bool = True) -> None:
        torch.manual_seed(0)
        self.subject, self.site = subject, site
        self.attention: nn.Module = transformer_like(site).eval()
        self.fusion: nn.Module = subject.build(site).eval()
        if shaken:
            shake(self.fusion)

    def clause(self, name: str) -> Any:
        """See ``Subject.clause``."""
        return self.subject.clause(name)

    def __call__(self, x: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
        fused: Tensor = self.fusion(self.attend, x, high, low)
        return fused

    def attend(self, x: Tensor, text: Tensor) -> Tensor:
        """The site's own attention."""
        out: Tensor = self.attention(x, encoder_hidden_states=text, return_dict=False)[0]
        return out

    def inputs(self, batch: int = 2, height: int = 5, width: int = 3, tokens: int = 7) -> tuple[Tensor, Tensor, Tensor]:
        """Features of images that differ in contrast and brightness, and text embeddings of both levels."""
        each = torch.arange(float(batch)).reshape(-1, 1, 1, 1)
        x = noise(batch, self.site.channels, height, width, seed=1) * (1 + each) + 0.5 * each
        return x, noise(batch, tokens, self.site.text_width, seed=2), noise(batch, tokens, self.site.text_width, seed=3)

    def to(self, *args: Any, **options: Any) -> _FusionAtSite:
        """Move the fusion and the attention, like ``torch.nn.Module.to``."""
        self.fusion.to(*args, **options)
        nn.Module.to(self.attention, *args, **options)  # diffusers' own ``to`` warns at any dtype
        return self


def _module(subject: Subject, site: AttentionSite) -> None:
    with subject.clause("module"):
        fusion = subject.build(site)
        require(isinstance(fusion, nn.Module), f"it is a {type(fusion).__name__}, not a torch.nn.Module")
        frozen = [name for name, weight in fusion.named_parameters() if not weight.requires_grad]
        require(not frozen, f"these parameters are frozen: {', '.join(frozen)}")
        loose = [name for name, value in vars(fusion).items() if not name.startswith("_") and _holds_weights(value)]
        require(not loose, f"these tensors are not parameters of the module: {', '.join(loose)}")


def _holds_weights(value: Any) -> bool:
    """Whether there is something to train in a value that torch does not know as a part of the module."""
    if isinstance(value, list | tuple | dict):
        return any(map(_holds_weights, value.values() if isinstance(value, dict) else value))
    return isinstance(value, nn.Module) or (isinstance(value, Tensor) and value.requires_grad)


def _initialisation(fused: _FusionAtSite) -> None:
    with fused.clause("initialisation"):
        before = {name: tensor.clone() for name, tensor in fused.attention.state_dict().items()}
        fused.fusion.init_from_attention(fused.attention)  # type: ignore[operator]
        require(same(fused.attention.state_dict(), before), "it changed the site's attention")
        own = {weight.data_ptr() for weight in fused.attention.parameters()}
        shared = [name for name, weight in fused.fusion.state_dict().items() if weight.data_ptr() in own]
        require(not shared, f"it shares these tensors with the site's attention: {', '.join(shared)}")
        require(all(same(b, b) for b in fused.fusion.state_dict().values()), "some of its weights are NaN")


def _shape(fused: _FusionAtSite) -> None:
    def test(batch: int, height: int, width: int, tokens: int) -> None:
        x, high, low = fused.inputs(batch, height, width, tokens)
        with torch.no_grad():
            require_tensor(fused(x, high, low), x.shape, "the result")

    with fused.clause("shape"):
        for_all(
            test,
            batch=st.integers(1, 3),
            height=st.integers(1, 7),
            width=st.integers(1, 7),
            tokens=st.integers(1, 77),
        )


@torch.no_grad()
def _dtype(fused: _FusionAtSite) -> None:
    with fused.clause("dtype"):
        for dtype in (torch.float32, torch.bfloat16):
            x, high, low = (tensor.to(dtype) for tensor in fused.inputs())
            for text in (low, None):
                found = fused.to(dtype)(x, high, text).dtype
                require(found == dtype, f"features in {dtype} gave features in {found}")


@torch.no_grad()
def _device(fused: _FusionAtSite) -> None:
    with fused.clause("device"):
        for device in devices():
            x, high, low = (tensor.to(device) for tensor in fused.inputs())
            found = fused.to(device)(x, high, low).device
            require(found == x.device, f"features on {x.device} gave features on {found}")


@torch.no_grad()
def _memory_layout(fused: _FusionAtSite) -> None:
    with fused.clause("memory layout"):
        x, high, low = fused.inputs()
        plain = fused(x, high, low)
        fused.to(memory_format=torch.channels_last)
        other = fused(x.contiguous(memory_format=torch.channels_last), high, low)
        require_close(other, plain, 1e-4, "features in channels_last gave a different result")


@torch.no_grad()
def _without_low(fused: _FusionAtSite) -> None:
    with fused.clause("no low-level prompt"):
        x, high, _ = fused.inputs()
        require_tensor(fused(x, high, None), x.shape, "the result without a low-level prompt")


@torch.no_grad()
def _inputs(fused: _FusionAtSite) -> None:
    with fused.clause("inputs"):
        x, high, low = fused.inputs()
        with inputs_kept(x=x, high=high, low=low):
            fused(x, high, low)
            fused(x, high, None)


@torch.no_grad()
def _determinism(fused: _FusionAtSite) -> None:
    with fused.clause("determinism"):
        x, high, low = fused.inputs()
        with global_random_state_kept():
            first = fused(x, high, low)
        fresh = _FusionAtSite(fused.subject, fused.site)
        with global_random_state_kept():
            there = fused(x + 1, high - 1, low * 2)
        problem = "after a call it gives another result than without this call"
        require(same(there, fresh(x + 1, high - 1, low * 2)), problem)
        fused(x[..., 1:] + 1, high - 1, low * 2)
        fused(x, high, None)
        require(same(first, fused(x, high, low)), "the same call gave a different result after other calls")


@torch.no_grad()
def _batch(fused: _FusionAtSite) -> None:
    with fused.clause("batch"):
        x, high, low = fused.inputs(batch=3)
        for text in (low, None):
            whole = fused(x, high, text)
            for i in range(3):
                alone = fused(x[i : i + 1], high[i : i + 1], None if text is None else text[i : i + 1])
                problem = f"image {i} of a batch of 3 differs from the same image alone"
                require_close(whole[i : i + 1], alone, 1e-4, problem)


@torch.no_grad()
def _control_flow(fused: _FusionAtSite) -> None:
    with fused.clause("data-independent control flow"):
        x, high, low = (tensor.to("meta") for tensor in fused.inputs())  # tensors without values, as in compilation
        fused.to("meta")
        try:
            found = fused(x, high, low)
        except RuntimeError as error:
            if "device meta" not in str(error):
                raise
            with fused.clause("device"):
                raise
        require(found.shape == x.shape, f"on the meta device the result has shape {tuple(found.shape)}")


def _gradients(fused: _FusionAtSite) -> None:
    with fused.clause("gradients"):
        x, high, low = (tensor.requires_grad_() for tensor in fused.inputs())
        fused.fusion.train()
        weights = torch.linspace(0.5, 1.5, x.numel()).reshape(x.shape)
        result = fused(x, high, low)
        require_tensor(result, x.shape, "in training, the result")
        (result.square() * weights).sum().backward()
        named = dict(fused.fusion.named_parameters())
        idle = [name for name, weight in named.items() if weight.grad is None or not weight.grad.any()]
        require(not idle, f"no gradient reaches {', '.join(idle)}")
        for name, tensor in (("x", x), ("high", high)):
            require(tensor.grad is not None and bool(tensor.grad.any()), f"no gradient passes through to {name}")
        _check_slopes(fused)


def _check_slopes(fused: _FusionAtSite) -> None:
    """Gradients must agree with finite differences, which they do not if something was detached."""
    fused.to(torch.float64).fusion.eval()
    tensors = dict(zip(("x", "high", "low"), (tensor.double() for tensor in fused.inputs()), strict=True))
    weights = torch.linspace(0.5, 1.5, tensors["x"].numel(), dtype=torch.float64).reshape(tensors["x"].shape)
    for name, tensor in tensors.items():
        start, direction = tensor.requires_grad_(), noise(*tensor.shape, seed=4).double()
        loss = _loss(fused, tensors, weights)
        (gradient,) = torch.autograd.grad(loss, start, allow_unused=True)
        found = 0.0 if gradient is None else float((gradient * direction).sum())
        slopes = []
        for step in STEPS:
            with torch.no_grad():
                there, here = (_loss(fused, tensors | {name: start + s * direction}, weights) for s in (step, -step))
            slopes.append(float(there - here) / (2 * step))
        slope = min(slopes, key=lambda slope: abs(found - slope))
        problem = f"along {name}, the finite difference of the result is {slope:.4g}, but its gradient is {found:.4g}"
        require(abs(found - slope) <= 0.02 * abs(slope) + ROUNDING * float(loss.detach()), problem)


def _loss(fused: _FusionAtSite, tensors: dict[str, Tensor], weights: Tensor) -> Tensor:
    return (fused(**tensors).square() * weights).sum()


@torch.no_grad()
def _state_dict(fused: _FusionAtSite) -> None:
    with fused.clause("meta device"), torch.device("meta"):  # as checkpoints are read
        empty = fused.subject.build(fused.site).eval()
        real = [name for name, tensor in empty.state_dict().items() if not tensor.is_meta]
        require(not real, f"built on the meta device, these tensors lie elsewhere: {', '.join(real)}")
    with fused.clause("state dict"):
        fused.fusion.init_from_attention(fused.attention)  # type: ignore[operator]
        shake(fused.fusion)
        x, high, low = fused.inputs()
        expected = fused(x, high, low)
        written = safetensors.torch.save({k: v.contiguous() for k, v in fused.fusion.state_dict().items()})
        empty.load_state_dict(safetensors.torch.load(written), assign=True)
        fused.fusion = empty
        problem = "after saving and loading its state dict, it gives a different result"
        require_close(fused(x, high, low), expected, 1e-6, problem)


@torch.no_grad()
def _identity(fused: _FusionAtSite) -> None:
    with fused.clause("identity at start"):
        fresh = _FusionAtSite(fused.subject, fused.site, shaken=False)
        fresh.fusion.init_from_attention(fresh.attention)  # type: ignore[operator]
        x, high, low = fresh.inputs()
        problem = "the result of a fresh fusion differs from attend(x, high)"
        require_close(fresh(x, high, low), fresh.attend(x, high), 0.0, problem)


def _end_to_end(subject: Subject) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_base_model(folder / "base")
        with subject.clause("training"):
            model = {
                "base": folder / "base",
                "backbone": "residual",
                "fusion": {"name": subject.name, **subject.options},
            }
            half = lambda hr: interpolate(hr, scale_factor=0.5)  # noqa: E731
            checkpoint = check_training(folder, subject.registry, model, half)
        with subject.clause("restoration"):
            check_restoration(folder / "base", subject.registry, checkpoint=checkpoint, low_prompt="strong blur")
