"""Embeddings teach the text encoders new words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support import original_layout, tiny
from xpsr_sdk import CheckpointError, ConfigError, build_pipeline
from xpsr_sdk.models.embedding_files import add_embeddings

WIDTH = 16


def write(file: Path, vectors: torch.Tensor, form: str) -> str:
    """Write an embedding, N D, as one of the programs does."""
    if form == "a1111":
        content = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.nn.Parameter(vectors)}, "name": "any"}
        torch.save(content, file.with_suffix(".pt"))
        return str(file.with_suffix(".pt"))
    save_file({"emb_params" if form == "a1111-new" else "<any>": vectors}, file)
    return str(file)


@pytest.mark.parametrize("form", ["a1111", "a1111-new", "diffusers"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_word_stands_for_the_vectors_of_a_file(tmp_path: Path, form: str, count: int) -> None:
    vectors = torch.randn(count, WIDTH)
    pipeline = build_pipeline(tiny.sd_config(), embedding=write(tmp_path / "Soft-Focus.safetensors", vectors, form))
    encoder = pipeline.text_encoder
    seen: list[Any] = []
    encoder.get_input_embeddings().register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    pipeline.backbone.encode_text(["a photo, Soft-Focus, clean"])
    assert any(torch.equal(seen[0][0, i : i + count], vectors) for i in range(len(seen[0][0])))


def test_a_saved_model_knows_the_word(tmp_path: Path) -> None:
    file = write(tmp_path / "zqx.safetensors", torch.ones(2, WIDTH), "a1111")
    pipeline = build_pipeline(tiny.sd_config(), embedding=file)
    pipeline.save_pretrained(tmp_path / "saved")
    again = build_pipeline(model=tmp_path / "saved", device="cpu", dtype="float32")
    texts = [pipe.backbone.encode_text(["a zqx b"]).embeddings for pipe in (pipeline, again)]
    torch.testing.assert_close(*texts)


def test_an_embedding_for_sdxl_is_of_both_text_encoders(tmp_path: Path) -> None:
    folder, checkpoint = original_layout.write_whole(tmp_path, "xl")
    both = {"clip_l": torch.full((1, 64), 2.0), "clip_g": torch.full((1, 64), 3.0)}
    save_file(both, tmp_path / "zqx.safetensors")
    settings: dict[str, Any] = {"model": folder, "checkpoint": checkpoint, "device": "cpu", "dtype": "float32"}
    pipeline = build_pipeline(**settings, embedding=[tmp_path / "zqx.safetensors"])
    for encoder, value in ((pipeline.text_encoder, 2), (pipeline.text_encoder_2, 3)):
        assert (encoder.get_input_embeddings().weight[-1] == value).all()


def test_what_does_not_fit_is_a_sentence(tmp_path: Path) -> None:
    wide = write(tmp_path / "wide.safetensors", torch.ones(1, 77), "diffusers")
    known = write(tmp_path / "photo.safetensors", torch.ones(1, WIDTH), "diffusers")
    save_file({"lora_unet_a.lora_up.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    save_file({"emb_params": torch.zeros(0, WIDTH)}, tmp_path / "empty.safetensors")
    save_file({"emb_params": torch.ones(1, WIDTH), "other": torch.ones(3)}, tmp_path / "two.safetensors")
    pipeline = build_pipeline(tiny.sd_config())
    for files, error, message in (
        (
            wide,
            CheckpointError,
            r"is an embedding for another model: its vectors have 77 channels, and text_encoder",
        ),
        ([known, known], ConfigError, r"the text encoder knows the word 'photo' already: rename"),
        (str(tmp_path / "lora.safetensors"), CheckpointError, r"is a LoRA, not an embedding"),
        (str(tmp_path / "empty.safetensors"), CheckpointError, r"an embedding without a vector"),
        (str(tmp_path / "two.safetensors"), CheckpointError, r"holds 2 tensors, not the vectors of one word"),
        ("lost.pt", ConfigError, r"embedding: lost.pt does not exist"),
    ):
        with pytest.raises(error, match=message):
            add_embeddings(pipeline, [files] if isinstance(files, str) else files)
