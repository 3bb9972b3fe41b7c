"""Upscalers out of files: four architectures, and files that hold something else."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spandrel import ImageModelDescriptor, MaskedImageModelDescriptor, ModelLoader
from spandrel.architectures.Compact import Compact, CompactArch
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SPAN import SPAN
from spandrel.architectures.SwinIR import SwinIR
from torch import nn

from xpsr_sdk import CheckpointError, ConfigError, Upscaler
from xpsr_sdk.builtin.spandrel_upscaler import SpandrelUpscaler
from xpsr_sdk.testing.tensors import noise


def compact(scale: int = 2, channels: int = 3) -> Compact:
    return Compact(num_in_ch=channels, num_out_ch=channels, num_feat=4, num_conv=1, upscale=scale)


def swin_ir() -> SwinIR:
    return SwinIR(
        img_size=8, window_size=8, depths=(1,), num_heads=(2,), embed_dim=4, mlp_ratio=2, upscale=2,
        upsampler="pixelshuffledirect",
    )  # fmt: skip


NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "ESRGAN": (4, lambda: ESRGAN(num_filters=4, num_blocks=1, scale=4)),
    "SPAN": (2, lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=4, upscale=2)),
    "SwinIR": (2, swin_ir),
    "Compact": (2, compact),
}


def upscaler(path: Path | str) -> SpandrelUpscaler:
    return SpandrelUpscaler(SpandrelUpscaler.Config(path=str(path)))


def saved(network: nn.Module, path: Path) -> Path:
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"params_ema": state}, path)  # as training code of the field writes it
    return path


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # when the test makes a SwinIR
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_enlarges_whatever_its_file_is(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    scale, make = NETWORKS[name]
    network = make()
    photos = noise(2, 3, 5, 7).sigmoid()
    results = []
    for suffix in (".safetensors", ".pth"):
        opened = upscaler(saved(network, tmp_path / f"network{suffix}"))
        assert opened.scale == scale
        results.append(opened.upscale(photos))
        assert results[-1].shape == (2, 3, 5 * scale, 7 * scale)
        assert 0 <= results[-1].min() <= results[-1].max() <= 1
    assert torch.equal(*results)


def test_a_call_in_half_precision_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    opened = upscaler(saved(compact(), tmp_path / "a.pth"))
    photos = noise(1, 3, 6, 6).sigmoid()
    before = opened.upscale(photos)
    assert opened.upscale(photos.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(opened.upscale(photos), before)


def test_it_is_pickled_by_way_of_its_file(tmp_path: Path) -> None:
    opened = upscaler(saved(compact(), tmp_path / "a.pth"))
    photos = noise(1, 3, 6, 6).sigmoid()
    for twin in (pickle.loads(pickle.dumps(opened)), copy.deepcopy(opened)):
        assert torch.equal(twin.upscale(photos), opened.upscale(photos))


def test_half_precision_in_a_file_is_read(tmp_path: Path) -> None:
    opened = upscaler(saved(compact().half(), tmp_path / "half.safetensors"))
    assert opened.upscale(noise(1, 3, 4, 4).sigmoid()).dtype == torch.float32


def test_the_shipped_one_is_found_by_its_name() -> None:
    shipped = upscaler("realesrgan-x4plus")
    assert isinstance(shipped, Upscaler)
    assert shipped.scale == 4


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"file .*none.pth does not exist\. Shipped are: realesrgan-x4plus"):
        upscaler(tmp_path / "none.pth")


def test_an_empty_path_is_told() -> None:
    with pytest.raises(ConfigError, match="needs the option path: a file of weights"):
        upscaler("")


def test_a_network_that_enlarges_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a.pth holds .*Compact \(Restoration, x1\): an upscaler enlarges"):
        upscaler(saved(compact(scale=1), tmp_path / "a.pth"))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_told(channels: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"from {channels} channels to {channels}: an upscaler takes and gives"):
        upscaler(saved(compact(channels=channels), tmp_path / "a.pth"))


def test_a_face_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(compact(), tmp_path / "face.pth")
    # The networks for faces are large: a small one of another kind takes their place.
    monkeypatch.setattr(ImageModelDescriptor, "purpose", "FaceSR", raising=False)
    with pytest.raises(CheckpointError, match=r"\(FaceSR, x2\): an upscaler enlarges whole photos"):
        upscaler(path)


def test_an_inpainting_network_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(compact(), tmp_path / "inpaint.pth")

    def load(self: ModelLoader, state: dict[str, torch.Tensor]) -> MaskedImageModelDescriptor[Compact]:
        return MaskedImageModelDescriptor(
            compact(), compact().state_dict(), architecture=CompactArch(), purpose="Inpainting", tags=[],
            supports_half=False, supports_bfloat16=False, input_channels=3, output_channels=3,
        )  # fmt: skip

    monkeypatch.setattr(ModelLoader, "load_from_state_dict", load)
    with pytest.raises(CheckpointError, match=r"\(Inpainting, x1\): an upscaler enlarges whole photos"):
        upscaler(path)


class Harmful:
    """Pickled code: it would write a file when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.trace), "w")


@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_pickled_code_is_refused_and_not_run(write: Callable[..., object], tmp_path: Path) -> None:
    write({"weight": torch.zeros(1), "code": Harmful(tmp_path / "trace")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors, and pickled code could") as caught:
        upscaler(tmp_path / "a.pth")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"<html>" * 9])
def test_a_damaged_file_is_told_in_one_sentence(suffix: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = saved(compact(), tmp_path / f"a{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"a\{suffix} cannot be read as weights") as caught:
        upscaler(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.zeros(3)}, "holds no architecture that spandrel knows"),
        ([torch.zeros(3)], "cannot be read as weights: it holds a list"),
        (
            {"body.0.weight": torch.zeros(3), "body.1.weight": torch.zeros(3)},
            "tensors are not those of one of spandrel",
        ),
    ],
)
def test_tensors_that_are_no_network_are_told(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        upscaler(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
