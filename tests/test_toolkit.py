"""What authors build with does what its page says; the rest of the toolkit is tested where it is defined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from pydantic import AfterValidator, ValidationError

from xpsr_sdk import (
    CheckpointError,
    ConfigError,
    ImageError,
    Options,
    PluginError,
    PromptProvider,
    Registry,
    XPSRControlNet,
)
from xpsr_sdk.testing import tiny
from xpsr_sdk.toolkit import (
    RESIZE_MODES,
    DrawnDegradation,
    Probability,
    QualityRange,
    ResizeMode,
    SizeRange,
    Weight,
    WeightRange,
    check_batch,
    check_image,
    create_part,
    did_you_mean,
    find_device,
    init_fusions,
    one_line,
    ordered,
    read_json,
    resize_aliased,
    short,
    to_8_bit,
)


class Darker(DrawnDegradation[float]):
    """Less light, of which nothing is drawn but how much."""

    scale = 2

    def draw(self, generator: torch.Generator) -> float:
        return torch.rand((), generator=generator).item()

    def apply(self, hr: torch.Tensor, record: float, generator: torch.Generator) -> torch.Tensor:
        return resize_aliased(hr * record, (hr.shape[1] // self.scale, hr.shape[2] // self.scale), "area")


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_degradation_that_draws_is_a_draw_and_what_is_done_with_it() -> None:
    hr = torch.rand(2, 3, 8, 6)
    lr = Darker()(hr, seeded(1, 2))
    assert lr.shape == (2, 3, 4, 3)
    alone, drawn = Darker().degrade_with_record(hr[1], seeded(2)[0])
    assert torch.equal(lr[1], alone)
    assert torch.allclose(alone.mean(), hr[1].mean() * drawn)


class DegradationOptions(Options):
    """Options of all types of the toolkit."""

    chance: Probability = 0.5
    weight: Weight = 1.0
    levels: WeightRange = (0.0, 25.0)
    quality: QualityRange = (30, 95)
    kernel_sizes: SizeRange = (7, 21)
    hours: Annotated[tuple[int, int], AfterValidator(ordered)] = (0, 24)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"chance": 1.5}, "less than or equal to 1"),
        ({"weight": -1}, "greater than or equal to 0"),
        ({"levels": (2, 1)}, "a range is written"),
        ({"quality": (0, 95)}, "greater than or equal to 1"),
        ({"kernel_sizes": (7, 20)}, "kernel sizes are odd"),
        ({"hours": (9, 8)}, "a range is written"),
    ],
)
def test_options_of_degradations_are_checked(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        DegradationOptions(**wrong)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_resizing_keeps_a_flat_image_flat(mode: ResizeMode) -> None:
    assert torch.allclose(resize_aliased(torch.full((3, 8, 8), 0.25), (3, 5), mode), torch.full((3, 3, 5), 0.25))


@pytest.mark.parametrize(
    ("hr", "complaint"),
    [
        (torch.rand(3, 8, 7), "8 x 7 pixels"),
        (torch.rand(1, 8, 8), "takes floats"),
        (torch.ones(3, 8, 8).int(), "int32"),
    ],
)
def test_wrong_images_are_told(hr: torch.Tensor, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        check_image(hr, scale=2)


def test_a_batch_needs_a_generator_for_each_image() -> None:
    check_batch(torch.rand(2, 3, 8, 8), seeded(1, 2), scale=2)
    with pytest.raises(ImageError, match="1 generators came with an hr batch of 2 images"):
        check_batch(torch.rand(2, 3, 8, 8), seeded(1), scale=2)


def test_8_bits_are_256_levels() -> None:
    assert to_8_bit(torch.tensor([-1.0, 0.5, 2.0])).tolist() == pytest.approx([0, 128 / 255, 1])


def test_the_nearest_name_comes_first() -> None:
    assert did_you_mean("unipcc", ["ddim", "unipc"]) == "Did you mean 'unipc'? Known: ddim, unipc."
    assert did_you_mean("steps", ["num_inference_steps"]).startswith("Did you mean 'num_inference_steps'?")
    assert did_you_mean("dd", ["ddim_of_another"]) == "Known: ddim_of_another."


def test_errors_and_values_fit_into_a_sentence() -> None:
    assert one_line(ValueError("a key\n  of sk-123"), secret="sk-123") == "ValueError: a key of ***"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(FileNotFoundError(2, "No such file or directory", "a.pt")) == "No such file or directory: a.pt"
    assert short([1, 2]) == "[1, 2]"
    assert len(one_line(ValueError("x" * 999))) < len(short("x" * 999)) * 4 < 400


def test_a_device_is_found_by_name() -> None:
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="There is no device 'cqu'"):
        find_device("cqu")


def test_a_part_in_a_part_comes_from_the_registry_in_force() -> None:
    with Registry([]).in_force():
        assert isinstance(create_part("prompt_provider", {"name": "fixed", "high": "a house"}), PromptProvider)
    with pytest.raises(PluginError, match="No registry is in force"):
        create_part("prompt_provider", "fixed")


def test_json_is_read_or_the_model_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "model_index.json"
    file.write_text(json.dumps({"a": 1}))
    assert read_json(file) == {"a": 1}
    file.write_text("{")
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        read_json(file)


def test_fresh_fusions_start_as_the_sites_own_attention() -> None:
    controlnet: XPSRControlNet = tiny.networks()[1]
    block = controlnet.down_blocks[1]
    fusion, attention = block.fusions[0], block.attentions[0]
    assert not torch.equal(fusion.lowlevel.proj_in.weight, attention.proj_in.weight)
    init_fusions(controlnet)
    assert torch.equal(fusion.lowlevel.proj_in.weight, attention.proj_in.weight)
