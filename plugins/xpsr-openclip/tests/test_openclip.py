"""The provider with a small random OpenCLIP model, which goes through the same loading code as the large ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import xpsr_openclip
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from xpsr_openclip.provider import OpenCLIPPrompts, native_crops
from xpsr_openclip.vocabulary import DEFAULT, read_vocabulary

from tests.support import tiny
from xpsr_sdk import ConfigError, Item, Registry
from xpsr_sdk.testing import check_distribution, check_prompt_provider

SIDE = 32
MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
VOCABULARY = """
tags = ["a dog", "a cat", "a house", "the sea", "a car"]
qualities = [["sharp", "blurry"], ["clean", "noisy"]]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as OpenCLIP's own models have it."""
    folder = tmp_path_factory.mktemp("openclip")
    torch.manual_seed(0)
    network = open_clip.model.CLIP(**MODEL)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}))
    return folder


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("vocabulary") / "words.toml"
    file.write_text(VOCABULARY)
    return file


@pytest.fixture
def provider(model: Path, vocabulary: Path) -> OpenCLIPPrompts:
    return make(model=str(model), vocabulary=vocabulary)


def make(**options: Any) -> OpenCLIPPrompts:
    return Registry([xpsr_openclip]).create("prompt_provider", {"name": "openclip", "device": "cpu", **options})


def items(*seeds: int, size: tuple[int, int] = (50, 40)) -> list[Item]:
    return [Item(tiny.photo(*size, seed)) for seed in seeds]


def test_the_contract(model: Path, vocabulary: Path) -> None:
    choice = {"name": "openclip", "model": str(model), "vocabulary": str(vocabulary), "device": "cpu"}
    check_prompt_provider(choice, Registry([xpsr_openclip]))


def test_the_distribution() -> None:
    check_distribution("xpsr-openclip")


def test_both_levels_are_words_of_the_vocabulary(model: Path, vocabulary: Path) -> None:
    sure = make(model=str(model), vocabulary=vocabulary, quality_probability=0.5, tag_probability=0, max_tags=3)
    words = read_vocabulary(vocabulary)
    for prompts in sure.describe(items(0, 1, 2), ("high", "low")):
        assert prompts.source == {"high": "openclip", "low": "openclip"}
        assert not prompts.errors
        tags = prompts.high.removeprefix("a photo of ").removesuffix(".").split(", ")
        assert len(tags) == 3
        assert set(tags) < set(words.tags)
        qualities = prompts.low.removesuffix(".").split(", ")
        assert all(quality in pair for quality, pair in zip(qualities, words.qualities, strict=True))


def test_only_the_asked_level_is_given(provider: OpenCLIPPrompts) -> None:
    (high,), (low,) = (provider.describe(items(0), [level]) for level in ("high", "low"))
    assert high.high
    assert high.low is None
    assert low.low
    assert low.high is None
    assert provider.describe([], ["high"]) == []


def test_the_first_tag_is_the_one_that_open_clip_finds_nearest(provider: OpenCLIPPrompts, model: Path) -> None:
    network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{model}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{model}")
    with torch.no_grad():
        texts = network.encode_text(tokenize([f"a photo of {tag}" for tag in provider.vocabulary.tags]), normalize=True)
        for item in items(0, 1, 2, 3):
            image = network.encode_image(preprocess(item.image)[None], normalize=True)
            nearest = provider.vocabulary.tags[int((image @ texts.T).argmax())]
            (prompts,) = provider.describe([item], ["high"])
            assert prompts.high.startswith(f"a photo of {nearest}")


def test_a_photo_like_one_word_of_a_pair_gets_that_word(provider: OpenCLIPPrompts) -> None:
    """Opposites swapped in the vocabulary swap nothing in the answer: the features decide."""
    (before,) = provider.describe(items(1), ["low"])
    swapped = provider.vocabulary.model_copy(
        update={"qualities": [(bad, good) for good, bad in provider.vocabulary.qualities]}
    )
    provider.unload()
    provider.vocabulary = swapped
    assert provider.describe(items(1), ["low"]) == [before]


def test_nothing_clear_is_average_quality(model: Path, vocabulary: Path) -> None:
    doubting = make(model=str(model), vocabulary=vocabulary, quality_probability=1.0)
    assert doubting.describe(items(0), ["low"])[0].low == "average quality."


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_a_batch_says_what_single_photos_say(model: Path, vocabulary: Path, batch_size: int) -> None:
    together = make(model=str(model), vocabulary=vocabulary, batch_size=batch_size)
    photos = items(0, 1) + items(2, size=(33, 200)) + items(3, size=(16, 16))
    alone = [together.describe([photo], ("high", "low"))[0] for photo in photos]
    assert together.describe(photos, ("high", "low")) == alone


@settings(deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_crops_are_squares_of_own_pixels(width: int, height: int) -> None:
    image = tiny.photo(width, height)
    crops = native_crops(image, SIDE)
    side = min(SIDE, width, height)
    assert 1 <= len(crops) <= 5
    assert {crop.size for crop in crops} == {(side, side)}
    assert crops[0].tobytes() == image.crop(_centre(width, height, side)).tobytes()


def _centre(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    x, y = (width - side) // 2, (height - side) // 2
    return x, y, x + side, y + side


def test_text_is_encoded_once_and_again_after_unload(
    provider: OpenCLIPPrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = open_clip.create_model_from_pretrained
    monkeypatch.setattr(
        open_clip, "create_model_from_pretrained", lambda *args, **more: loads.append(args[0]) or load(*args, **more)
    )
    first = provider.describe(items(0), ("high", "low"))
    assert provider.describe(items(0), ("high", "low")) == first
    assert len(loads) == 1
    provider.unload()
    provider.unload()
    assert provider.describe(items(0), ("high", "low")) == first
    assert len(loads) == 2


def test_half_precision_gives_prompts(model: Path, vocabulary: Path) -> None:
    (prompts,) = make(model=str(model), vocabulary=vocabulary, dtype="bfloat16").describe(items(0), ("high", "low"))
    assert prompts.high
    assert not prompts.errors


def test_weights_may_be_a_file_of_a_known_architecture(model: Path, vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-of-mine.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(tmp_path)
    weights = str(model / "open_clip_model.safetensors")
    by_file = make(model="tiny-of-mine", pretrained=weights, vocabulary=vocabulary)
    by_folder = make(model=str(model), vocabulary=vocabulary)
    assert by_file.describe(items(0), ("high", "low")) == by_folder.describe(items(0), ("high", "low"))


class TestFailures:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"model": "ViT-Z-99"}, "The OpenCLIP model 'ViT-Z-99' cannot be loaded: .*ViT-Z-99"),
            ({"model": "ViT-B-32", "pretrained": "nowhere.pt"}, "'ViT-B-32' cannot be loaded: .*nowhere.pt"),
        ],
    )
    def test_a_model_that_is_not_there_costs_the_prompts(self, options: dict[str, Any], message: str) -> None:
        provider = make(**options)
        one, other = provider.describe(items(0, 1), ("high", "low"))
        assert one == other
        assert one.high is None
        assert one.low is None
        assert set(one.errors) == {"high", "low"}
        assert re.search(message, one.errors["high"]), one.errors

    def test_a_damaged_model_is_told_and_not_tried_again(self, model: Path, tmp_path: Path) -> None:
        for file in model.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes()[:1000])
        provider = make(model=str(tmp_path))
        (prompts,) = provider.describe(items(0), ["low"])
        assert list(prompts.errors) == ["low"]
        assert "cannot be loaded" in prompts.errors["low"]
        assert provider.describe(items(0), ["low"]) == [prompts]

    def test_one_unreadable_photo_costs_its_own_prompts(self, provider: OpenCLIPPrompts, tmp_path: Path) -> None:
        tiny.photo(64, 64).save(tmp_path / "whole.png")
        (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:80])
        good = items(0, 1)
        with Image.open(tmp_path / "cut.png") as cut:
            described = provider.describe([good[0], Item(cut), good[1]], ("high", "low"))
        assert [described[0], described[2]] == provider.describe(good, ("high", "low"))
        assert set(described[1].errors) == {"high", "low"}
        assert "cannot be read" in described[1].errors["high"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("tags = [", "cannot be read"),
            ('tags = ["a dog"]\nqualities = [["a", "b"]]', "tags"),
            ('tags = ["a dog", "a dog"]\nqualities = [["a", "b"]]', "each tag stands once, which a dog does not"),
            ('tags = ["a dog", "a cat"]\nqualities = [["a", "b", "c"]]', "qualities"),
            (
                'tags = ["a dog", "a cat"]\nqualities = [["a", "b"]]\ncontent_template = "{x}"',
                "a template holds {} once",
            ),
            ('tag = ["a dog", "a cat"]\nqualities = [["a", "b"]]', "tag: there is no such option. Did you mean 'tags'"),
        ],
    )
    def test_a_wrong_vocabulary_is_an_error_before_the_first_photo(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        file = tmp_path / "words.toml"
        file.write_text(text)
        with pytest.raises(ConfigError, match=message) as error:
            make(vocabulary=file)
        assert str(file) in str(error.value)

    def test_a_missing_vocabulary_and_device_are_told(self) -> None:
        with pytest.raises(ConfigError, match=r"words.toml cannot be read"):
            make(vocabulary="words.toml")
        with pytest.raises(ConfigError, match="There is no device 'gpu'"):
            make(device="gpu")


def test_the_default_vocabulary_is_whole() -> None:
    vocabulary = read_vocabulary(DEFAULT)
    assert len(vocabulary.tags) > 150
    assert len({word for pair in vocabulary.qualities for word in pair}) == 2 * len(vocabulary.qualities)
