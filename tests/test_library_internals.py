"""Private names of libraries: each does what it is used for, and no other module uses any."""

from __future__ import annotations

import ast
import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.state import AcceleratorState
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from xpsr_sdk import library_internals as internals

SDK = [file for file in sorted(Path("xpsr_sdk").rglob("*.py")) if "templates" not in file.parts]
PLUGINS = sorted(Path("plugins").glob("*/xpsr_*/*.py"))
PUBLIC = {"_exit", "_replace"}
"""Documented names of the standard library that begin with an underscore."""
FOR_SUBCLASSES = {"_execution_device"}
"""What diffusers documents for those who write pipelines."""
OF_PILLOW = {"_mode", "_size"}
"""The testing toolkit makes a damaged image by these."""
HOME = Path("xpsr_sdk/library_internals.py")


class Compiler:
    """In place of the compiler, which takes minutes: counts calls."""

    calls = 0

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.network.forward(x)


def compiled() -> tuple[nn.Module, Compiler]:
    network = nn.Linear(2, 2)
    compiler = Compiler(network)
    network._compiled_call_impl = compiler
    return network, compiler


def test_compilation_is_undone() -> None:
    network, compiler = compiled()
    network(torch.ones(2))
    internals.uncompile(network)
    network(torch.ones(2))
    assert compiler.calls == 1


def test_compilation_is_kept() -> None:
    network, compiler = compiled()
    with internals.compilation_kept(network):
        internals.uncompile(network)
        network(torch.ones(2))
    assert compiler.calls == 0
    network(torch.ones(2))
    assert compiler.calls == 1


def test_torch_compiles_where_this_is_undone() -> None:
    network = nn.Linear(2, 2)
    network.compile(backend="eager")
    assert network._compiled_call_impl is not None


def test_a_copy_on_the_meta_device_holds_nothing_and_hooks_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.register_forward_hook(lambda *_: pytest.fail("the hook was called"))
    add_hook_to_module(model[0], ModelHook())
    before = copy.deepcopy(model.state_dict())
    found = internals.on_meta(model)
    assert {x.device.type for x in (*found.parameters(), *found.buffers())} == {"meta"}
    assert found(torch.zeros(1, 3, 8, 8, device="meta")).shape == (1, 4, 6, 6)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


def test_offloaded_models_are_known() -> None:
    model = nn.Linear(2, 2)
    assert not internals.is_offloaded(model)
    add_hook_to_module(model, ModelHook())
    assert internals.is_offloaded(model)


def test_a_tensor_that_is_written_to_has_another_version() -> None:
    tensor = torch.zeros(2)
    before = internals.version_of(tensor)
    assert internals.version_of(tensor) == before
    tensor.add_(1)
    assert internals.version_of(tensor) != before


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_packed_convolutions_give_the_same(stride: int, groups: int) -> None:
    layer = nn.Conv2d(16, 8, 3, stride=stride, padding=1, groups=groups)
    x = torch.rand(2, 16, 12, 10)
    with torch.no_grad():
        found = internals.run_packed_convolution(layer, x, internals.pack_convolution(layer, x.shape))
        torch.testing.assert_close(found, layer(x))


def test_the_cpu_says_whether_it_has_matrix_units() -> None:
    assert internals.cpu_multiplies_bfloat16() in {True, False}


@pytest.mark.skipif("RANK" in os.environ, reason="this process belongs to a group")
def test_accelerate_chooses_its_precision_anew() -> None:
    for precision in ("no", "bf16"):
        internals.reset_accelerate(keep_processes=False)
        assert Accelerator(cpu=True, mixed_precision=precision).mixed_precision == precision
    internals.reset_accelerate(keep_processes=False)
    assert not AcceleratorState._shared_state


def test_ddp_leaves_alone_what_it_is_told_to(tmp_path: Path) -> None:
    module = nn.ModuleDict({"ours": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    internals.exclude_from_ddp(module, ["frozen.weight", "frozen.bias"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(module)
        assert set(wrapped.parameters_to_ignore) == {"frozen.weight", "frozen.bias"}
    finally:
        torch.distributed.destroy_process_group()


class Base(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)


class Renamed(internals.DiffusersLoading, Base):
    """Has an option of its own, and calls on disk ``old`` what is ``layer`` here."""

    def __init__(self, fusion: str = "xpsr", **options: int) -> None:
        super().__init__(**options)
        self.register_to_config(fusion=fusion)

    @staticmethod
    def name_in_model(name: str) -> str:
        return name.replace("old.", "layer.")


def test_diffusers_loads_other_names_and_the_options_of_a_base(tmp_path: Path) -> None:
    model = Renamed(fusion="gated", width=3)
    assert {"fusion", "width"} <= Renamed.init_keys(Renamed)
    state = {name.replace("layer.", "old."): x for name, x in model.state_dict().items()}
    model.save_config(tmp_path)
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    found = Renamed.from_pretrained(tmp_path)
    assert (found.config.fusion, found.config.width) == ("gated", 3)
    assert torch.equal(found.layer.weight, model.layer.weight)


def test_a_dispatch_mode_sees_what_operations_make() -> None:
    class Mode(internals.TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.made += sum(isinstance(leaf, torch.Tensor) for leaf in internals.tree_leaves([out]))
            return out

    with Mode() as mode:
        torch.zeros(2) + 1
    assert mode.made >= 2


def test_attention_on_the_cpu_is_the_operation_that_is_named() -> None:
    seen = set()

    class Mode(internals.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    with Mode():
        scaled_dot_product_attention(*torch.rand(3, 1, 2, 8, 16))
    assert internals.ATTENTION_ON_CPU in seen


def private_names(file: Path) -> Iterator[str]:
    """What a file takes from others that begins with an underscore: modules, imported names and attributes."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            names = [*node.module.split("."), *(name.name for name in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for name in node.names for part in name.name.split(".")]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        else:
            continue
        yield from (name for name in names if name.startswith("_") and not name.startswith("__"))


def own_names() -> set[str]:
    """Every private name that the SDK and its plug-ins define themselves."""
    found = set()
    for file in (*SDK, *PLUGINS):
        if file == HOME:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            ):
                found.add(node.attr)
    return found


OWN = own_names()


@pytest.mark.parametrize("file", [file for file in (*SDK, *PLUGINS) if file != HOME], ids=str)
def test_no_other_module_uses_private_names_of_libraries(file: Path) -> None:
    foreign = set(private_names(file)) - OWN - PUBLIC - FOR_SUBCLASSES - OF_PILLOW
    assert not foreign, f"move it to {HOME}, with the reason and a test, or find a public way"
