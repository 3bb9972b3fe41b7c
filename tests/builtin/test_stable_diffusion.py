"""Text that is longer than the encoder reads, and weights in it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tiny
from xpsr_sdk import Pipeline, Prompts, build_pipeline
from xpsr_sdk.builtin.stable_diffusion import StableDiffusion

WORDS = ("blurry", "house", "no", "noise,", "sharp")


@pytest.fixture(scope="module")
def backbone() -> StableDiffusion:
    found = StableDiffusion()
    found.load(tiny.SD_TINY / "base")
    found._warn_of_cut = lambda *_: None  # type: ignore[method-assign]
    return found


def encoded(backbone: StableDiffusion, *texts: str, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return backbone.encode_text(texts, **options).embeddings


@given(words=st.lists(st.sampled_from(WORDS), max_size=120))
def test_by_default_texts_are_encoded_as_the_tokenizer_pads_and_cuts_them(
    backbone: StableDiffusion, words: list[str]
) -> None:
    text = " ".join(words)
    tokens = backbone.tokenizer(
        text, padding="max_length", max_length=backbone.max_tokens, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = backbone.text_encoder(tokens.input_ids)[0]
    assert torch.equal(encoded(backbone, text), expected)


def test_chunks_follow_one_another(backbone: StableDiffusion) -> None:
    room = backbone.max_tokens - 2
    first, second = " ".join(["house"] * room), "blurry noise"
    together = encoded(backbone, f"{first} {second}", "sharp", long_prompts="chunks")
    assert together.shape == (2, 2 * backbone.max_tokens, backbone.text_width)
    parts = encoded(backbone, first, second, "sharp", "")
    torch.testing.assert_close(together[0], parts[:2].flatten(0, 1))
    torch.testing.assert_close(together[1], parts[2:].flatten(0, 1))
    assert torch.equal(encoded(backbone, "sharp", long_prompts="chunks"), encoded(backbone, "sharp"))


def test_weights_scale_their_words_and_keep_the_norm(backbone: StableDiffusion) -> None:
    plain = encoded(backbone, "a house blurry")
    assert torch.equal(encoded(backbone, "a house blurry", weighted=True), plain)
    heavy = encoded(backbone, "a (house:1.5) blurry", weighted=True)
    torch.testing.assert_close(heavy.norm(), plain.norm())
    ratio = (heavy / plain)[0].mean(-1)
    changed = (ratio / ratio[0] - 1.5).abs() < 1e-3
    assert 1 <= int(changed.sum()) < len(WORDS)  # the tokens of one word
    torch.testing.assert_close(ratio[~changed], ratio[:1].expand(int((~changed).sum())))
    assert not torch.equal(encoded(backbone, "a (house:1.5) blurry"), heavy)


def test_a_cut_is_told_once() -> None:
    backbone = StableDiffusion()
    backbone.load(tiny.SD_TINY / "base")
    long = "house " * 100
    with pytest.warns(
        UserWarning, match=r"A prompt of \d+ tokens was cut to 75: 'house house.*long_prompts = 'chunks'"
    ):
        encoded(backbone, long)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded(backbone, long, long)
        encoded(backbone, long, long_prompts="chunks")


class Captioner:
    def describe(self, items: Any, levels: Any) -> list[Prompts]:
        return [Prompts("a (house:9)", "(blurry)") for _ in items]

    def unload(self) -> None:
        pass


def test_only_users_set_weights(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe: Pipeline = build_pipeline(
        model=str(tiny_model), device="cpu", prompt_provider=Captioner(), positive="(clean:1.2)", num_inference_steps=1
    )
    seen: list[tuple[list[str], dict[str, Any]]] = []
    plain = pipe.backbone.encode_text
    monkeypatch.setattr(
        pipe.backbone, "encode_text", lambda texts, **given: seen.append((texts, given)) or plain(texts, **given)
    )
    photo = tiny.photo(20, 16)
    pipe(photo)
    assert seen == [(["a (house:9). (clean:1.2)"], {}), (["(blurry)"], {})]
    seen.clear()
    pipe(photo, prompt_weights=True, prompt="a [hut]")
    options = {"long_prompts": "cut", "weighted": True}
    assert seen == [(["a [hut]. (clean:1.2)"], options), ([r"\(blurry\)"], options)]
    seen.clear()
    result = pipe(photo, prompt_weights=True, long_prompts="chunks", positive="clean " * 100, guidance_scale=2)
    assert seen[0][0][1].startswith(r"a \(house:9\). clean")
    assert result.image.size == (80, 64)
    assert result.prompts.high == "a (house:9)"
