"""Vision-language models of three real architectures, untrained, through the code that loads the large ones."""

from __future__ import annotations

import gc
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import tiny, tiny_vlm
from xpsr_sdk import ConfigError, Item, Prompts, build_pipeline
from xpsr_sdk.builtin import CAPTIONERS, transformers_captioner
from xpsr_sdk.builtin.transformers_captioner import TransformersCaptioner
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.prompts.describe import describe

MODELS = {"llava": tiny_vlm.write_llava, "qwen": tiny_vlm.write_qwen, "smolvlm": tiny_vlm.write_smolvlm}
ITEMS = [Item(tiny.photo(width, height, seed)) for seed, (width, height) in enumerate([(64, 64), (80, 40), (33, 64)])]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    for name, write in MODELS.items():
        write(folder / name)
    return folder


def captioner(model: Path, **options: Any) -> TransformersCaptioner:
    return TransformersCaptioner(
        TransformersCaptioner.Config(model=str(model), device_map="cpu", **{"max_new_tokens": 8, **options})
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_model_answers_both_questions_about_each_photo(models: Path, name: str) -> None:
    said = describe(captioner(models / name), ITEMS, ["high", "low"])
    answers = [text for prompts in said for text in (prompts.high, prompts.low) if text]
    assert len(set(answers)) > 3  # untrained: a few may be empty or alike
    words = {*tiny_vlm.WORDS}
    assert {word for answer in answers for word in answer.split()} <= words
    for prompts in said:
        assert prompts.source.keys() | prompts.errors.keys() == {"high", "low"}
        assert set(prompts.source.values()) <= {str(models / name)}
        assert set(prompts.errors.values()) <= {f"{models / name} gave an empty answer."}


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_says_what_each_photo_alone_does(models: Path, name: str) -> None:
    together = describe(captioner(models / name, batch_size=3), ITEMS, ["high"])
    alone = describe(captioner(models / name, batch_size=1), ITEMS, ["high"])
    assert together == alone


def test_the_question_and_the_model_count(models: Path) -> None:
    plain = describe(captioner(models / "llava"), ITEMS, ["high", "low"])
    other = describe(captioner(models / "llava", high_question="Describe the sky"), ITEMS, ["high", "low"])
    assert [p.high for p in plain] != [p.high for p in other]
    assert [p.low for p in plain] == [p.low for p in other]
    two = describe(captioner(models / "llava", low_model=str(models / "qwen")), ITEMS, ["high", "low"])
    assert [p.high for p in two] == [p.high for p in plain]
    assert [p.low for p in two] == [p.low for p in describe(captioner(models / "qwen"), ITEMS, ["low"])]
    assert two[0].source == {"high": str(models / "llava"), "low": str(models / "qwen")}


@pytest.mark.parametrize("quantization", ["bitsandbytes-8bit", "bitsandbytes-4bit", "torchao-int8"])
def test_weights_in_few_bits(models: Path, quantization: str) -> None:
    pytest.importorskip(quantization.partition("-")[0])
    provider = captioner(models / "qwen", quantization=quantization)
    assert any(prompts.high for prompts in describe(provider, ITEMS, ["high"]))
    model, _ = provider._loaded[str(models / "qwen")]
    assert {parameter.dtype for parameter in model.parameters()} != {torch.float32} or quantization == "torchao-int8"


def test_memory_is_made_room_in(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for keep, free, stays in ((None, 10**12, True), (None, 10, False), (True, 10, True)):
        monkeypatch.setattr(transformers_captioner, "free_memory", lambda device, free=free: free)
        provider = captioner(models / "llava", keep_loaded=keep)
        first = describe(provider, ITEMS, ["high"])
        assert bool(provider._loaded) == stays
        provider.unload()
        assert not provider._loaded
        assert describe(provider, ITEMS, ["high"]) == first


def test_one_bad_photo_costs_its_own_words_only(models: Path) -> None:
    provider = captioner(models / "llava", batch_size=3)
    broken = Item(None)  # type: ignore[arg-type]
    said = describe(provider, [ITEMS[0], broken, ITEMS[2]], ["high"])
    assert [bool(prompts.high) for prompts in said] == [True, False, True]
    assert "NoneType" in said[1].errors["high"]


def test_a_model_that_cannot_be_loaded_is_tried_once(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    read = TransformersCaptioner._read
    monkeypatch.setattr(TransformersCaptioner, "_read", lambda self, name: tries.append(name) or read(self, name))
    (tmp_path / "empty").mkdir()
    pipe = build_pipeline(
        model=str(tiny_model), device="cpu", prompt_provider={"name": "transformers", "model": str(tmp_path / "empty")}
    )
    for _ in range(2):
        with pytest.warns(UserWarning, match="No high-level and low-level prompt for the image: .*empty: ValueError: "):
            result = pipe(tiny.photo(20, 16))
        assert result.image.size == (80, 64)
        assert result.prompts.source == {}
    assert len(tries) == 1
    assert set(result.prompts.errors) == {"high", "low"}


def damage_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(dict(sorted(weights.items())[::2]), folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_weights, r"CheckpointError: \d+ of its weights are missing, for instance \S+\."),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "SafetensorError: "),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "does not have a chat template"),
        (lambda folder: (folder / "processor_config.json").unlink(), "OSError: Can't load image processor"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
    ],
)
def test_a_damaged_model_is_an_error(
    models: Path, tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    shutil.copytree(models / "llava", tmp_path / "model")
    damage(tmp_path / "model")
    (said,) = describe(captioner(tmp_path / "model"), ITEMS[:1], ["high"])
    assert said.high is None
    assert re.search(reason, said.errors["high"]), said.errors


def test_a_model_that_is_refused_does_not_stay_in_memory(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models / "llava", tmp_path / "model")
    damage_weights(tmp_path / "model")
    read: list[weakref.ref[Any]] = []
    load = transformers_captioner.AutoModelForImageTextToText.from_pretrained

    def remembered(*arguments: Any, **options: Any) -> Any:
        model, found = load(*arguments, **options)
        read.append(weakref.ref(model))
        return model, found

    monkeypatch.setattr(transformers_captioner.AutoModelForImageTextToText, "from_pretrained", remembered)
    provider = captioner(tmp_path / "model")
    first = describe(provider, ITEMS, ["high"])
    assert describe(provider, ITEMS, ["high"]) == first
    gc.collect()
    assert [model() for model in read] == [None]


def test_thoughts_are_no_part_of_an_answer(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = captioner(models / "llava", batch_size=3)
    _, processor = provider._load(str(models / "llava"))
    said = ["<think>A hut?</think>\nA house.", "A hut?\n</think>A house.", "<think>A hut, or a"]
    monkeypatch.setattr(processor, "batch_decode", lambda *_, **__: said)
    answers = describe(provider, ITEMS, ["high"])
    assert [prompts.high for prompts in answers] == ["A house.", "A house.", None]
    assert answers[2].errors["high"].endswith("gave an empty answer.")


def test_when_memory_runs_out_the_words_are_missing(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = captioner(models / "llava", batch_size=3)
    model, _ = provider._load(str(models / "llava"))
    generate = model.generate

    def scarce(**inputs: Any) -> Any:
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", scarce)
    assert all(prompts.high for prompts in describe(provider, ITEMS, ["high"]))  # one by one
    monkeypatch.setattr(model, "generate", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory")))
    error = f"{models / 'llava'}: OutOfMemoryError: CUDA out of memory"
    assert describe(provider, ITEMS, ["high"]) == [Prompts(errors={"high": error})] * 3


def test_wrong_options_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="The folder of the captioner, /none, does not exist"):
        captioner(Path("/none"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package bitsandbytes: pip install 'xpsr-sdk\[bitsandbytes\]'"):
        captioner(tmp_path, quantization="bitsandbytes-4bit")


@pytest.mark.parametrize("name", CAPTIONERS)
def test_presets_are_models_on_the_hub(registry: Registry, name: str) -> None:
    config: Any = registry.config("prompt_provider", {"name": name, "quantization": "bitsandbytes-4bit"})
    assert config.model.count("/") == 1
    assert config.high_question == "Please provide a descriptive summary of the content of this image."
    assert config.low_question == "Describe and evaluate the quality of the image."
    assert not config.trust_remote_code
