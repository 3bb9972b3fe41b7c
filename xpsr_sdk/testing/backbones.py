"""Checks a backbone against the contract of ``xpsr_sdk.Backbone``."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Sequence
from math import log2
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ModelMixin
from hypothesis import strategies as st
from torch import Tensor, nn

from xpsr_sdk.contracts import Conditioning, parts_of, text_encoders_of
from xpsr_sdk.errors import CheckpointError
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.testing.restoring import check_restoration
from xpsr_sdk.testing.subject import Choice, Subject, check_construction, for_all, require
from xpsr_sdk.testing.tensors import (
    correlation,
    generators,
    global_random_state_kept,
    inputs_kept,
    noise,
    require_close,
    require_tensor,
    same,
)
from xpsr_sdk.testing.tiny import photo, write_networks, write_stable_diffusion

TEXTS = ("", "a photo of a cat", "strong blur, no noise.", "ein Haus am See, 湖边的房子")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.safetensors.index.json")
SLOPE_STEPS = (1e-2, 1e-3, 1e-4)
"""Step sizes of finite differences: small ones suit what bends strongly, large ones what computes in float32 inside."""


def check_backbone(
    choice: Choice, folder: Path | None = None, registry: Registry | None = None, *, lossless: bool = False
) -> None:
    """Check a backbone against the whole contract of [Backbone][xpsr_sdk.contracts.Backbone].

    Args:
        choice: Its name, or ``{"name": ..., <options>}``.
        folder: A small base model that it can load, in the diffusers layout. It is only read. None: a tiny Stable
            Diffusion with random weights.
        registry: The registry that holds it, for instance ``Registry([my_plugin])``. None: the installed plug-ins.
        lossless: Whether it promises that decoding inverts encoding, except for rounding.

    Raises:
        ContractViolation: A clause is broken; the message says which one, and how to fix it.
    """
    subject = Subject.of("backbone", choice, registry)
    check_construction(subject)
    with TemporaryDirectory() as temporary:
        base = Path(temporary, "base")
        if folder is None:
            write_stable_diffusion(base)
        else:
            shutil.copytree(folder, base)
        backbone = _parts(subject, base)
        schedule = dict(backbone.scheduler.config)
        with subject.clause("exceptions"), torch.no_grad():
            image, lr = _images(backbone)
            encoded, conditioning = backbone.encode(image, lr), backbone.encode_text(["a photo"])
            with subject.clause("shape"):
                require(isinstance(encoded, Tensor), f"encode returned a {type(encoded).__name__}, not a tensor")
            decoded = backbone.decode(encoded, lr)
            with subject.clause("shape"):
                require(isinstance(decoded, Tensor), f"decode returned a {type(decoded).__name__}, not a tensor")
            with subject.clause("text"):
                _require_conditioning(conditioning)
        for check in (_precision, _from_scratch, _damage):
            check(subject, base)
        for test in (_text, _long_text, _weights, _shape, _inputs, _determinism, _batch):
            test(subject, backbone)
        with subject.clause("determinism"):
            require(dict(backbone.scheduler.config) == schedule, "it changed the config of the scheduler")
        _derived(subject, backbone)
        _scale(subject, backbone)
        _range(subject, backbone)
        _gradients(subject, backbone)
        if lossless:
            _lossless(subject, backbone)
        _end_to_end(subject, backbone, base)


def _loaded(subject: Subject, folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    backbone = subject.build()
    backbone.load(folder, dtype=dtype, **options)
    return backbone


def _parts(subject: Subject, folder: Path) -> Any:
    with subject.clause("parts"):
        before = _files(folder)
        backbone = _loaded(subject, folder)
        require(_files(folder) == before, "load() changed the folder of the model")
        kinds: dict[str, type] = {"vae": ModelMixin, "text_encoder": nn.Module}
        for name, kind in (kinds | dict.fromkeys(text_encoders_of(backbone), nn.Module)).items():
            part = getattr(backbone, name)
            require(isinstance(part, kind), f"{name} is a {type(part).__name__}, not a {kind.__name__}")
            require(not part.training, f"{name} is in training mode")
        require(callable(backbone.tokenizer), f"the tokenizer, {backbone.tokenizer!r}, cannot be called")
        alphas = getattr(backbone.scheduler, "alphas_cumprod", None)
        require(isinstance(alphas, Tensor), "the scheduler has no alphas_cumprod")
        known = getattr(backbone.scheduler.config, "prediction_type", None)
        require(known in ("epsilon", "v_prediction", "sample"), f"the scheduler's prediction_type is {known!r}")
        for name in ("latent_channels", "stride", "text_width"):
            value = getattr(backbone, name)
            require(type(value) is int and value >= 1, f"{name} is {value!r}")
        require(log2(backbone.stride).is_integer(), f"stride is {backbone.stride}, which is not a power of 2")
        return backbone


def _files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _precision(subject: Subject, folder: Path) -> None:
    with subject.clause("precision"):
        for dtype in (torch.float32, torch.bfloat16):
            backbone = _loaded(subject, folder, dtype)
            for name in (*text_encoders_of(backbone), "vae"):
                tensors = {**dict(getattr(backbone, name).named_parameters())}
                wrong = {str(t.dtype) for t in tensors.values() if t.is_floating_point() and t.dtype != dtype}
                require(not wrong, f"loaded in {dtype}, {name} has weights in {', '.join(sorted(wrong))}")
            with torch.no_grad():
                image, lr = _images(backbone, dtype=dtype)
                latents = backbone.encode(image, lr)
                results = {"encode": latents, "decode": backbone.decode(latents, lr)}
                results |= {f"encode_text, {k},": x for k, x in _encoded(backbone, ["a photo"]).items()}
            for name, result in results.items():
                require(result.dtype == dtype, f"in {dtype}, {name} returned {result.dtype}")


def _from_scratch(subject: Subject, folder: Path) -> None:
    with subject.clause("from scratch"), TemporaryDirectory() as temporary:
        bare = Path(temporary, "bare")
        shutil.copytree(folder, bare)
        for pattern in WEIGHTS:
            for file in bare.glob(f"text_encoder*/**/{pattern}"):
                file.unlink()
        backbone = _loaded(subject, bare, from_scratch=True)
        with torch.no_grad():
            require_tensor(backbone.encode_text(["a"]).embeddings[0, :, 0], (_tokens(backbone),), "an embedding")


def _damage(subject: Subject, folder: Path) -> None:
    with subject.clause("damage"):
        for damage in ("no files", "no scheduler", "no vae", "no tokenizer", "a truncated text encoder"):
            with TemporaryDirectory() as temporary:
                broken = Path(temporary, "broken")
                shutil.copytree(folder, broken)
                _break(broken, damage)
                try:
                    _loaded(subject, broken)
                except CheckpointError:
                    continue
                except Exception as error:
                    require(
                        False,
                        f"given a folder with {damage}, load() raised {type(error).__name__}, not CheckpointError",
                    )
                require(False, f"given a folder with {damage}, load() raised no error")


def _break(folder: Path, damage: str) -> None:
    if damage == "no files":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "a truncated text encoder":
        for file in (folder / "text_encoder").glob("*.safetensors"):
            file.write_bytes(file.read_bytes()[:100])
    else:
        shutil.rmtree(folder / damage.removeprefix("no "))


@torch.no_grad()
def _text(subject: Subject, backbone: Any) -> None:
    with subject.clause("text"):
        for texts in (TEXTS, list(TEXTS[:1]), ["a"] * 3):
            conditioning = backbone.encode_text(texts)
            _require_conditioning(conditioning)
            shape = (len(texts), _tokens(backbone), backbone.text_width)
            require_tensor(conditioning.embeddings, shape, f"the embeddings of {len(texts)} texts")
            names = set(conditioning.added)
            require(names in (set(), {"text_embeds", "time_ids"}), f"networks do not take {sorted(names)}")
            for name, x in conditioning.added.items():
                require_tensor(x, (len(texts), *x.shape[1:]), f"{name} of {len(texts)} texts")
        first, second = backbone.encode_text(["a cat", "a house"]).embeddings
        require(not same(first, second), "two texts have the same embeddings")


def _require_conditioning(value: object) -> None:
    require(isinstance(value, Conditioning), f"encode_text returned a {type(value).__name__}, not a Conditioning")


@torch.no_grad()
def _long_text(subject: Subject, backbone: Any) -> None:
    with subject.clause("long text"):
        text = "a house and a tree " * 200
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            conditioning = backbone.encode_text([text])
        require_tensor(conditioning.embeddings[0, 0], (backbone.text_width,), "the embedding of a long text")
        cut = conditioning.embeddings.shape[1] < 800
        require(not cut or bool(caught), "it cut a long text without a warning")
        whole, other = (backbone.encode_text([t], long_prompts="chunks").embeddings for t in (text, text + "cat"))
        problem = f"with long_prompts='chunks' it read only {whole.shape[1]} tokens of a text of 1000"
        require(whole.shape[1] >= 800, problem)
        require(not same(whole, other), "with long_prompts='chunks' it did not read the last word of a long text")


@torch.no_grad()
def _weights(subject: Subject, backbone: Any) -> None:
    with subject.clause("weights"):
        plain = backbone.encode_text(["a photo of a cat"]).embeddings
        require_close(
            backbone.encode_text(["a photo of a cat"], weighted=True).embeddings,
            plain,
            1e-4,
            "with weighted=True a text without brackets has different embeddings",
        )
        weighted = backbone.encode_text(["a photo of a (cat:1.5)"], weighted=True).embeddings
        require(weighted.shape == plain.shape, f"a weight gives embeddings of shape {tuple(weighted.shape)}")
        require(not torch.allclose(weighted, plain, atol=1e-4), "a weight changes nothing")
        as_text = backbone.encode_text(["a photo of a (cat:1.5)"]).embeddings
        require(not same(weighted, as_text), "it reads (cat:1.5) in the same way with weighted=True and without")


def _encoded(backbone: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """What the networks are told of texts: the embeddings, and what is added, by their names."""
    conditioning = backbone.encode_text(texts)
    return {"embeddings": conditioning.embeddings, **conditioning.added}


def _tokens(backbone: Any) -> int:
    return int(backbone.encode_text([""]).embeddings.shape[1])


def _images(
    backbone: Any, batch: int = 2, rows: int = 6, columns: int = 4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Images in [-1, 1] of different brightness, and resized inputs in [0, 1], for ``rows`` x ``columns`` latents."""
    shape = (batch, 3, rows * backbone.stride, columns * backbone.stride)
    brightness = torch.linspace(0.6, -0.6, batch).reshape(-1, 1, 1, 1)
    image = (0.4 * noise(*shape, seed=1) + brightness).clamp(-1, 1)
    return image.to(dtype), (noise(*shape, seed=2) + brightness).sigmoid().to(dtype)


@torch.no_grad()
def _shape(subject: Subject, backbone: Any) -> None:
    def test(batch: int, rows: int, columns: int) -> None:
        image, lr = _images(backbone, batch, rows, columns)
        latents = backbone.encode(image, lr)
        require_tensor(latents, (batch, backbone.latent_channels, rows, columns), "the latents")
        require_tensor(backbone.decode(latents, lr), image.shape, "the image")

    with subject.clause("shape"):
        for_all(test, examples=4, batch=st.integers(1, 2), rows=st.integers(2, 7), columns=st.integers(2, 7))


@torch.no_grad()
def _scale(subject: Subject, backbone: Any) -> None:
    with subject.clause("scale"):
        factor = getattr(backbone.vae.config, "scaling_factor", None)
        if factor is None:
            return
        double = _with_parts_of(subject, backbone)
        double.vae = copy.deepcopy(backbone.vae)
        double.vae.register_to_config(scaling_factor=2 * factor)
        image, lr = _images(backbone)
        latents, twice = backbone.encode(image, lr), double.encode(image, lr)
        require_close(twice, 2 * latents, 1e-4, "with twice the scaling_factor, the latents are not twice as large")
        problem = "with another scaling_factor, decoding does not undo the scale of encoding"
        require_close(double.decode(twice, lr), backbone.decode(latents, lr), 1e-4, problem)


@torch.no_grad()
def _range(subject: Subject, backbone: Any) -> None:
    """Decoded images lie around 0: half of what they show is darker than the middle of the range."""
    with subject.clause("range"):
        image, _ = _images(backbone, rows=8, columns=8)
        dark = torch.zeros_like(image)
        shape = (2, backbone.latent_channels, 8, 8)
        decoded = torch.cat([backbone.decode(level * noise(*shape, seed=3), dark) for level in (0.5, 1.0)])
        lowest = float(decoded.min())
        require(lowest < 0, f"of random latents and a black photo it decodes no number below {lowest:.3g}")
        if isinstance(backbone.vae, AutoencoderKL):
            _check_encoding(backbone, image)
            _check_decoding(backbone, noise(*shape, seed=4), dark)


def _check_encoding(backbone: Any, image: Tensor) -> None:
    """What an autoencoder of diffusers is given must not be the image in another range or order."""
    latents = backbone.encode(image, image / 2 + 0.5)

    def is_of(other: Tensor) -> bool:
        own: Tensor = backbone.vae.encode(other).latent_dist.mode()
        return correlation(latents, own) > 0.9999

    if is_of(image):
        return
    require(not is_of(image / 2 + 0.5), "it encodes images in [0, 1], but the autoencoder takes them in [-1, 1]")
    require(not is_of(2 * image - 1), "it encodes images as if they were in [0, 1], but they are in [-1, 1]")
    require(not is_of(image.flip(1)), "it encodes images with red and blue exchanged")


def _check_decoding(backbone: Any, latents: Tensor, dark: Tensor) -> None:
    """What an autoencoder of diffusers gives must not be brought to another range, order or place."""
    own = backbone.vae.decode(latents / getattr(backbone.vae.config, "scaling_factor", 1)).sample.double()
    ours = backbone.decode(latents, dark).double()
    if correlation(ours, own) > 0.99:
        centered, theirs = ours - ours.mean(), own - own.mean()
        slope = float((centered * theirs).sum() / theirs.square().sum().clamp(min=1e-12))
        require(abs(slope - 0.5) > 0.05, "it halves what the autoencoder gives, as if for [0, 1]")
        require(slope < 2, f"it gives {slope:.3g} times what the autoencoder gives")
        return
    require(correlation(ours, own.flip(1)) < 0.99, "it exchanges red and blue")
    for rows, columns in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        alike = correlation(ours, own.roll((rows, columns), (2, 3)))
        require(alike < 0.99, f"the picture is shifted by {rows} pixels down and {columns} to the right")


@torch.no_grad()
def _lossless(subject: Subject, backbone: Any) -> None:
    with subject.clause("lossless"):
        image, lr = _images(backbone)
        again = backbone.decode(backbone.encode(image, lr), lr)
        require_close(again, image, 1e-4, "after encoding and decoding, an image is not the same")


def _with_parts_of(subject: Subject, backbone: Any) -> Any:
    """A fresh backbone with the parts of ``backbone``, which ``from_pretrained`` makes in this way."""
    fresh = subject.build()
    for name, part in parts_of(backbone).items():
        setattr(fresh, name, part)
    return fresh


@torch.no_grad()
def _inputs(subject: Subject, backbone: Any) -> None:
    with subject.clause("inputs"):
        image, lr = _images(backbone)
        with inputs_kept(image=image, lr=lr):
            latents = backbone.encode(image, lr)
            backbone.encode(image, lr, generators(0, 1))
        with inputs_kept(latents=latents, lr=lr):
            backbone.decode(latents, lr)


@torch.no_grad()
def _determinism(subject: Subject, backbone: Any) -> None:
    with subject.clause("determinism"):
        image, lr = _images(backbone)

        def results() -> list[Tensor]:
            latents = backbone.encode(image, lr)
            drawn = backbone.encode(image, lr, generators(5, 6))
            return [latents, drawn, backbone.decode(latents, lr), *_encoded(backbone, TEXTS).values()]

        with global_random_state_kept():
            first = results()
        backbone.encode(*_images(backbone, 1, 3, 5))
        backbone.encode_text(["another text"])
        latents, decoded = first[0], first[2]
        backbone.encode(*(images.flip(0) for images in (image, lr)))  # other photos of the same size
        problem = "decode gave another result after other photos were encoded"
        require(same(decoded, backbone.decode(latents, lr)), problem)
        names = ("encode", "encode", "decode", *["encode_text"] * (len(first) - 3))
        for name, before, again in zip(names, first, results(), strict=True):
            require(same(before, again), f"{name} gave a different result for the same input")


@torch.no_grad()
def _batch(subject: Subject, backbone: Any) -> None:
    with subject.clause("batch"):
        image, lr = _images(backbone)
        latents, drawn = backbone.encode(image, lr), backbone.encode(image, lr, generators(5, 6))
        decoded, texts = backbone.decode(latents, lr), _encoded(backbone, TEXTS)
        for i in range(2):
            one = slice(i, i + 1)
            pairs = {
                "encode": (latents[one], backbone.encode(image[one], lr[one])),
                "encode, with generators,": (drawn[one], backbone.encode(image[one], lr[one], generators(5 + i))),
                "decode": (decoded[one], backbone.decode(latents[one], lr[one])),
            }
            for name, (together, alone) in pairs.items():
                problem = f"{name} gave different results for image {i} of a batch and for this image alone"
                require_close(together, alone, 1e-4, problem)
        for i, text in enumerate(TEXTS):
            for name, alone in _encoded(backbone, [text]).items():
                require_close(
                    texts[name][i : i + 1], alone, 1e-4, f"in a batch, the text {text!r} has different {name}"
                )


def _gradients(subject: Subject, backbone: Any) -> None:
    with subject.clause("gradients"):
        image, lr = _images(backbone)
        with torch.no_grad():
            latents = backbone.encode(image, lr)
        latents = latents.detach().clone().requires_grad_()
        decoded = backbone.decode(latents, lr)
        require(decoded.requires_grad, "what decode() returns has no gradient")
        decoded.square().sum().backward()
        require(latents.grad is not None and bool(latents.grad.any()), "no gradient passes through decode()")
        _check_slope(subject, backbone, latents.detach(), lr)


def _check_slope(subject: Subject, backbone: Any, latents: Tensor, lr: Tensor) -> None:
    """The gradient of decode() must agree with finite differences, which it does not if something was detached."""
    exact = _with_parts_of(subject, backbone)
    exact.vae = nn.Module.to(copy.deepcopy(backbone.vae), torch.float64)
    start, dark, direction = (x.double() for x in (latents, lr, noise(*latents.shape, seed=4)))
    weights = torch.linspace(0.5, 1.5, lr.numel(), dtype=torch.float64).reshape(lr.shape)

    def loss(x: Tensor) -> Tensor:
        return (exact.decode(x, dark).square() * weights).sum()

    (gradient,) = torch.autograd.grad(loss(start.requires_grad_()), start)
    found = float((gradient * direction).sum())
    with torch.no_grad():
        slopes = [float(loss(start + s * direction) - loss(start - s * direction)) / (2 * s) for s in SLOPE_STEPS]
    slope = min(slopes, key=lambda slope: abs(found - slope))
    problem = f"the finite difference of decode() is {slope:.4g}, but its gradient is {found:.4g}"
    require(abs(found - slope) <= 0.05 * abs(slope) + 1e-3, problem)


@torch.no_grad()
def _derived(subject: Subject, backbone: Any) -> None:
    with subject.clause("derived"):
        fresh = _with_parts_of(subject, backbone)
        for name in ("latent_channels", "stride", "text_width"):
            require(getattr(fresh, name) == getattr(backbone, name), f"{name} depends on what load() stored")
        image, lr = _images(backbone)
        latents = backbone.encode(image, lr)
        require(same(fresh.encode(image, lr), latents), "encode depends on what load() stored")
        require(same(fresh.decode(latents, lr), backbone.decode(latents, lr)), "decode depends on what load() stored")
        texts = (_encoded(part, TEXTS).values() for part in (fresh, backbone))
        require(all(map(same, *texts)), "encode_text depends on what load() stored")


def _end_to_end(subject: Subject, backbone: Any, folder: Path) -> None:
    fitting: dict[str, Any] = {
        "in_channels": backbone.latent_channels,
        "out_channels": backbone.latent_channels,
        "cross_attention_dim": backbone.text_width,
        **_fitting_added(backbone),
    }
    write_networks(folder, (4,) + (8,) * round(log2(backbone.stride)), **fitting)
    with subject.clause("restoration"):
        pipeline = check_restoration(folder, subject.registry, backbone={"name": subject.name, **subject.options})
    with subject.clause("saving"):
        pipeline.save_pretrained(folder.parent / "saved")
        loaded = Pipeline.from_pretrained(folder.parent / "saved", registry=subject.registry)
        loaded.set_progress_bar_config(disable=True)
        settings: dict[str, Any] = {"seed": 3, "scale": 2, "fidelity": 0.5}
        built, again = (np.asarray(pipe(photo(23, 17), **settings).image, np.int16) for pipe in (pipeline, loaded))
        # The memory layout of tensors, which differs between the two, changes how kernels round.
        require(np.abs(built - again).max() <= 2, "after saving and loading, the pipeline gives a different result")


@torch.no_grad()
def _fitting_added(backbone: Any) -> dict[str, Any]:
    """The config of a U-Net that takes what the backbone adds to the text."""
    added = backbone.encode_text([""]).added
    if not added:
        return {}
    width = added["text_embeds"].shape[1] + 8 * added["time_ids"].shape[1]
    names = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return {**names, "projection_class_embeddings_input_dim": width}
