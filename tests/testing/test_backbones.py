"""Backbones that break a clause each are caught."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.registries import registry_with
from xpsr_sdk import CheckpointError, Conditioning
from xpsr_sdk.builtin.residual import ResidualBackbone
from xpsr_sdk.builtin.stable_diffusion import StableDiffusion
from xpsr_sdk.testing import ContractViolation, check_backbone, tiny
from xpsr_sdk.testing.clauses import CLAUSES, COMMON


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "base"
    tiny.write_stable_diffusion(folder)
    return folder


class Honest(StableDiffusion):
    """A plug-in's own, which does nothing else."""


class InTrainingMode(StableDiffusion):
    def load(self, folder: Path, dtype: torch.dtype = torch.float32, from_scratch: bool = False) -> None:
        super().load(folder, dtype, from_scratch)
        self.text_encoder.train()


class OddStride(StableDiffusion):
    @property
    def stride(self) -> int:
        return 3


class AlwaysFloat32(StableDiffusion):
    def load(self, folder: Path, dtype: torch.dtype = torch.float32, from_scratch: bool = False) -> None:
        super().load(folder, torch.float32, from_scratch)


class DecodesInFloat32(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents, lr).float()


class NeedsWeights(StableDiffusion):
    def load(self, folder: Path, dtype: torch.dtype = torch.float32, from_scratch: bool = False) -> None:
        super().load(folder, dtype)


class LetsErrorsThrough(StableDiffusion):
    def load(self, folder: Path, dtype: torch.dtype = torch.float32, from_scratch: bool = False) -> None:
        try:
            super().load(folder, dtype, from_scratch)
        except CheckpointError as error:
            raise OSError(f"cannot read {folder}") from error  # as libraries raise it


class ForgivesAMissingScheduler(StableDiffusion):
    def load(self, folder: Path, dtype: torch.dtype = torch.float32, from_scratch: bool = False) -> None:
        try:
            super().load(folder, dtype, from_scratch)
        except CheckpointError as error:
            if "scheduler" not in str(error):
                raise


class KeepsTheFactor(StableDiffusion):
    def load(self, folder: Path, dtype: torch.dtype = torch.float32, from_scratch: bool = False) -> None:
        super().load(folder, dtype, from_scratch)
        self.factor = 1.0

    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents * self.factor, lr)


class HalfTheText(StableDiffusion):
    def encode_text(self, texts: Sequence[str]) -> Conditioning:
        return Conditioning(super().encode_text(texts).embeddings[..., :8])


class Deaf(StableDiffusion):
    def encode_text(self, texts: Sequence[str]) -> Conditioning:
        return super().encode_text([""] * len(texts))


class CutsSilently(StableDiffusion):
    def encode_text(self, texts: Sequence[str]) -> Conditioning:
        return super().encode_text([text[:60] for text in texts])


class RefusesLongText(StableDiffusion):
    def encode_text(self, texts: Sequence[str]) -> Conditioning:
        if max(map(len, texts)) > 500:
            raise ValueError("too long")
        return super().encode_text(texts)


class CutsInChunks(StableDiffusion):
    def encode_text(self, texts: Sequence[str], *, long_prompts: Any = "cut", weighted: bool = False) -> Conditioning:
        return super().encode_text(texts, weighted=weighted)


class IgnoresWeights(StableDiffusion):
    def encode_text(self, texts: Sequence[str], *, long_prompts: Any = "cut", weighted: bool = False) -> Conditioning:
        return super().encode_text(texts, long_prompts=long_prompts)


class AlwaysWeighted(StableDiffusion):
    def encode_text(self, texts: Sequence[str], *, long_prompts: Any = "cut", weighted: bool = False) -> Conditioning:
        return super().encode_text(texts, long_prompts=long_prompts, weighted=True)


class ForgetsTheScale(StableDiffusion):
    def encode(self, image: Tensor, lr: Tensor, generators: Any = None) -> Tensor:
        return super().encode(image, lr, generators) / self.vae.config.scaling_factor


class ScalesTwice(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents / self.vae.config.scaling_factor, lr)


class ForgetsTheInput(ResidualBackbone):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents, 0.5 * torch.ones_like(lr))


class Crops(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents, lr)[..., 1:]


class SquareOnly(StableDiffusion):
    def encode(self, image: Tensor, lr: Tensor, generators: Any = None) -> Tensor:
        latents = super().encode(image, lr, generators)
        side = min(latents.shape[-2:])
        return latents[..., :side, :side]


class DrawsFromTorch(StableDiffusion):
    def encode(self, image: Tensor, lr: Tensor, generators: Any = None) -> Tensor:
        latents = super().encode(image, lr, None)
        return latents if generators is None else latents + torch.randn_like(latents)


class DrawsWithoutGenerators(StableDiffusion):
    def encode(self, image: Tensor, lr: Tensor, generators: Any = None) -> Tensor:
        latents = super().encode(image, lr, generators)
        own = torch.Generator()
        own.seed()
        return latents + 0.1 * torch.randn(latents.shape, generator=own).to(latents)


class OneGeneratorForAll(StableDiffusion):
    def encode(self, image: Tensor, lr: Tensor, generators: Any = None) -> Tensor:
        return super().encode(image, lr, generators and [generators[0]] * len(image))


class NormalisesTheBatch(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents, lr) - latents.mean()


class WritesIntoLatents(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        if not latents.requires_grad:
            latents.mul_(1.01)
        return super().decode(latents, lr)


class NoGradients(StableDiffusion):
    @torch.no_grad()
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents, lr) + 0 * latents.sum()


class FailsInAPipeline(StableDiffusion):
    def encode_text(self, texts: Sequence[str], **options: Any) -> Conditioning:
        if "exposure" in texts[0]:
            raise ValueError("measured")
        return super().encode_text(texts, **options)


class OfItsOwnModule(StableDiffusion):
    """Says one thing of the pipeline that was built, and another of the one that was loaded."""

    def load(self, folder: Path, dtype: torch.dtype = torch.float32, from_scratch: bool = False) -> None:
        super().load(folder, dtype, from_scratch)
        self.loaded = True

    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        image = super().decode(latents, lr)
        return image if getattr(self, "loaded", False) or len(latents) > 1 else image * 0.5


class DecodesToZeroAndOne(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents, lr) / 2 + 0.5


class ClampsToZeroAndOne(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return (super().decode(latents, lr) / 2 + 0.5).clamp(0, 1)


class DecodesToLevels(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return 127.5 * (super().decode(latents, lr) + 1)


class ExchangesRedAndBlue(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents, lr).flip(1)


class MovesByAPixel(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        return super().decode(latents, lr).roll(1, -1)


class EncodesZeroToOne(StableDiffusion):
    def encode(self, image: Tensor, lr: Tensor, generators: Any = None) -> Tensor:
        return super().encode((image + 1) / 2, lr, generators)


class ExpectsZeroToOne(StableDiffusion):
    def encode(self, image: Tensor, lr: Tensor, generators: Any = None) -> Tensor:
        return super().encode(2 * image - 1, lr, generators)


class GivesTheDecodersOutput(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Any:
        return self.vae.decode(latents / self.vae.config.scaling_factor)


class GivesADistribution(StableDiffusion):
    def encode(self, image: Tensor, lr: Tensor, generators: Any = None) -> Any:
        return self.vae.encode(image).latent_dist


class GivesEmbeddings(StableDiffusion):
    def encode_text(self, texts: Sequence[str], **options: Any) -> Any:
        return super().encode_text(texts, **options).embeddings


class HalfTheGradient(StableDiffusion):
    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        image = super().decode(latents, lr)
        return (image + image.detach()) / 2


class WritesIntoTheFolder(StableDiffusion):
    def load(self, folder: Path, dtype: torch.dtype = torch.float32, from_scratch: bool = False) -> None:
        (folder / "read").touch()
        super().load(folder, dtype, from_scratch)


class ChangesTheSchedule(StableDiffusion):
    def encode_text(self, texts: Sequence[str], **options: Any) -> Conditioning:
        self.scheduler.register_to_config(prediction_type="v_prediction")
        return super().encode_text(texts, **options)


class UsesThePhotoEncodedLast(StableDiffusion):
    def encode(self, image: Tensor, lr: Tensor, generators: Any = None) -> Tensor:
        self.last = lr
        return super().encode(image, lr, generators)

    def decode(self, latents: Tensor, lr: Tensor) -> Tensor:
        last = getattr(self, "last", lr)
        return super().decode(latents, lr) + 0.1 * (last if last.shape == lr.shape else lr)


class FailsInBatches(StableDiffusion):
    def encode_text(self, texts: Sequence[str], **options: Any) -> Conditioning:
        return super().encode_text(texts, **options) if len(texts) < 3 else {}["texts"]


BROKEN = [
    ("exceptions", FailsInBatches),
    ("range", DecodesToZeroAndOne),
    ("range", ClampsToZeroAndOne),
    ("range", DecodesToLevels),
    ("range", ExchangesRedAndBlue),
    ("range", MovesByAPixel),
    ("range", EncodesZeroToOne),
    ("range", ExpectsZeroToOne),
    ("shape", GivesTheDecodersOutput),
    ("shape", GivesADistribution),
    ("text", GivesEmbeddings),
    ("gradients", HalfTheGradient),
    ("parts", WritesIntoTheFolder),
    ("determinism", ChangesTheSchedule),
    ("determinism", UsesThePhotoEncodedLast),
    ("parts", InTrainingMode),
    ("parts", OddStride),
    ("precision", AlwaysFloat32),
    ("precision", DecodesInFloat32),
    ("from scratch", NeedsWeights),
    ("damage", LetsErrorsThrough),
    ("damage", ForgivesAMissingScheduler),
    ("derived", KeepsTheFactor),
    ("text", HalfTheText),
    ("text", Deaf),
    ("long text", CutsSilently),
    ("long text", RefusesLongText),
    ("long text", CutsInChunks),
    ("weights", IgnoresWeights),
    ("weights", AlwaysWeighted),
    ("scale", ForgetsTheScale),
    ("scale", ScalesTwice),
    ("shape", Crops),
    ("shape", SquareOnly),
    ("determinism", DrawsFromTorch),
    ("determinism", DrawsWithoutGenerators),
    ("batch", OneGeneratorForAll),
    ("batch", NormalisesTheBatch),
    ("inputs", WritesIntoLatents),
    ("gradients", NoGradients),
    ("restoration", FailsInAPipeline),
    ("saving", OfItsOwnModule),
]


@pytest.mark.parametrize(("clause", "part"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_one_is_caught(base: Path, clause: str, part: type) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_backbone("part", base, registry_with("backbone", part))
    assert caught.value.clause == clause, str(caught.value)


def test_a_broken_promise_to_lose_nothing_is_caught(tmp_path: Path) -> None:
    tiny.write_base_model(tmp_path / "base")
    registry = registry_with("backbone", ForgetsTheInput)
    with pytest.raises(ContractViolation) as caught:
        check_backbone("part", tmp_path / "base", registry, lossless=True)
    assert caught.value.clause == "lossless"


def test_the_honest_one_passes_and_its_folder_is_left_as_it_is(base: Path) -> None:
    before = sorted(base.rglob("*"))
    check_backbone("part", base, registry_with("backbone", Honest))
    assert sorted(base.rglob("*")) == before


def test_every_clause_has_a_broken_backbone() -> None:
    assert {clause for clause, _ in BROKEN} | {"lossless"} | set(COMMON) == set(CLAUSES["backbone"])
