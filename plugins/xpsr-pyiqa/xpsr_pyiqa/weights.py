"""Where the weights of pyiqa's metrics come from.

A file is asked for by the name under which pyiqa would download it, for instance ``MANIQA_PIPAL-ae6d356b.pth``. In the
folder of weights, and in all folders below it, it is looked for by

1. that name, or the same name with another suffix (``.safetensors``, ``.pth``, ``.pt``, ``.mat``, ...);
2. the name without the hash at its end, followed by anything: ``MANIQA_PIPAL.safetensors``, ``MANIQA_PIPAL-mine.pth``.

So a copy of torch's cache (``~/.cache/torch/hub``) of a machine that has run the metrics is such a folder. Without a
folder, the files are taken from that cache by the first rule alone, and what it lacks is downloaded into it. Networks
that torchvision has (``alexnet-owt-*``, ``vgg16-*``) may hold their ``features.`` alone.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout, suppress
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from pkgutil import iter_modules
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from urllib.parse import urlparse
from warnings import catch_warnings

import packaging.version
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from xpsr_sdk import CheckpointError
from xpsr_sdk.toolkit import one_line

TENSORS = (".pth", ".pt", ".safetensors")
HASH = re.compile(r"[-_][0-9a-f]{8}$")
ALIASES = {"alexnet-owt": "alexnet"}
"""Shorter names by which files are found as well."""
TORCHVISION = {"alexnet-owt": "alexnet", "vgg16": "vgg16"}
"""Files that may lack the classifier, with the network's name in torchvision."""


class WeightFiles:
    """The weights of one metric.

    Args:
        folder: Where they lie; None: torch's cache, and what it lacks is downloaded.
        allow_pickle: Whether files may hold more than tensors.
    """

    used: list[str]
    """The files that were read, each with its SHA-256."""
    files: list[Path]
    """Where they lie."""

    def __init__(self, folder: Path | None, allow_pickle: bool = False) -> None:
        self._downloads = folder is None
        self._folder = Path(torch.hub.get_dir()) if folder is None else folder
        self._allow_pickle = allow_pickle
        self.used, self.files = [], []

    def build(self, metric: str, device: torch.device) -> Any:
        """The network of a metric of pyiqa, in eval mode.

        Raises:
            CheckpointError: A file is missing, unusable, or does not fill the network.
        """
        import pyiqa

        if not self._downloads and not self._folder.is_dir():
            raise CheckpointError(f"The weights folder {self._folder} does not exist.")
        try:
            # pyiqa announces its files on standard output, and uses old names of torchvision.
            with self._files_come_from_here(metric), redirect_stdout(StringIO()), catch_warnings(action="ignore"):
                net = pyiqa.create_metric(metric, device=device).net
        except CheckpointError:
            raise
        except ImportError as error:
            raise CheckpointError(f"{metric.upper()} needs {error.name}, which is not installed.") from error
        except Exception as error:  # each network fails in its own way at files that do not fit it
            about = f" The files are {', '.join(self.used)}." if self.used else ""
            raise CheckpointError(
                f"{metric.upper()} cannot be built from its weights: {one_line(error)}{about}"
            ) from error
        empty = [name for name, tensor in net.state_dict().items() if _is_empty(tensor)]
        if empty:
            raise CheckpointError(f"{metric.upper()} has no weights for {empty[0]} in {', '.join(self.used)}.")
        return net.eval().requires_grad_(False)

    @contextmanager
    def _files_come_from_here(self, metric: str) -> Iterator[None]:
        """Within the block, whatever pyiqa, torchvision and timm would download is taken from the folder."""
        import timm
        from huggingface_hub import constants
        from pyiqa.default_model_configs import DEFAULT_CONFIGS

        if metric in DEFAULT_CONFIGS:
            # Before anything is replaced, since pyiqa's modules keep what they find at their import.
            with _pkg_resources():
                _import_architecture(DEFAULT_CONFIGS[metric]["metric_opts"]["type"])

        original_download, original_load = torch.hub.download_url_to_file, torch.load
        original_create, original_fill = timm.create_model, torch.nn.Module.load_state_dict
        filled: dict[int, Tensor] = {}  # the tensors too, so that no later one gets the number of one that is gone

        def provide(url: str, target: str, *_: Any, **__: Any) -> None:
            self._provide(metric, url, Path(target), original_download)

        def provide_clip(url: str, *_: Any, **__: Any) -> str:
            target = Path(cache, "clip", PurePosixPath(urlparse(url).path).name)
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                provide(url, str(target))
            return str(target)

        def load(file: Any, *arguments: Any, **options: Any) -> Any:
            if hasattr(file, "seek"):  # CLIP has tried to read it as TorchScript before
                file.seek(0)
            return original_load(file, *arguments, **{**options, "weights_only": not self._allow_pickle})

        def create(*arguments: Any, **options: Any) -> Any:
            """The weights follow with those of the metric; NaN tells what does not."""
            network = original_create(*arguments, **{**options, "pretrained": False})
            for tensor in network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)
            return network

        def fill(module: Any, state: Any, *arguments: Any, **options: Any) -> Any:
            """What a file leaves out must have come from another one."""
            result = original_fill(module, state, *arguments, **options)
            left_out = []
            for name, parameter in module.named_parameters(remove_duplicate=False):
                if name in state:
                    filled[id(parameter)] = parameter
            for name, parameter in module.named_parameters():
                if id(parameter) not in filled:
                    left_out.append(name)
            if left_out:
                raise CheckpointError(
                    f"{metric.upper()} has no weights for {left_out[0]}: "
                    f"{self.used[-1] if self.used else 'its file'} does not hold them."
                )
            return result

        with ExitStack() as stack:
            cache = stack.enter_context(TemporaryDirectory())
            of_downloads = {
                "download_url_to_file": provide,
                "get_dir": lambda: cache,
                "DEFAULT_CACHE_DIR": cache,
                "_download": provide_clip,
            }
            for module in [torch.hub, *_modules_of("pyiqa"), *_modules_of("clip")]:
                for name in of_downloads.keys() & vars(module).keys():
                    stack.enter_context(_replaced(module, name, of_downloads[name]))
            for owner, name, value in (
                (torch, "load", load),
                (torch.nn.Module, "load_state_dict", fill),
                (timm, "create_model", create),
                (constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE or not self._downloads),
            ):
                stack.enter_context(_replaced(owner, name, value))
            yield

    def _provide(self, metric: str, url: str, target: Path, download: Callable[..., Any]) -> None:
        """Put the file of a URL where it is looked for, in the form that is expected there."""
        name = PurePosixPath(urlparse(url).path).name
        found = self._find(name)
        if found is None and self._downloads:
            found = self._folder / "pyiqa" / name
            found.parent.mkdir(parents=True, exist_ok=True)
            try:
                download(url, str(found), progress=False)
            except OSError as error:
                reason = one_line(getattr(error, "reason", error))
                raise CheckpointError(
                    f"The weights of {metric.upper()}, {name}, cannot be downloaded ({reason}): name a folder that "
                    "holds them as weights (--weights)."
                ) from error
        if found is None:
            raise CheckpointError(f"{metric.upper()} needs the file {name}, and {self._folder} does not hold it.")
        with found.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.used.append(f"{found.name} {digest}")
        self.files.append(found)
        network = TORCHVISION.get(HASH.sub("", Path(name).stem))
        if target.suffix in TENSORS and (found.suffix == ".safetensors" or network):
            torch.save(_whole(network, self._read(found)), target)
        else:
            target.symlink_to(found.absolute())

    def _find(self, name: str) -> Path | None:
        """The file of that name, or, in a folder that was given, of a similar one; an equal name goes first."""
        stem = Path(name).stem
        bare = HASH.sub("", stem)
        names = {bare, ALIASES.get(bare, bare)}
        suffixes = TENSORS if Path(name).suffix in TENSORS else (Path(name).suffix,)
        files = sorted(path for path in self._folder.rglob("*") if path.suffix in suffixes and path.is_file())
        equal = [path for path in files if path.name == name] or [path for path in files if path.stem == stem]
        if equal:
            return equal[0]
        if self._downloads:  # another version of the weights is not what was asked for
            return None
        similar = [path for path in files if path.stem in names or path.stem.startswith(tuple(f"{n}-" for n in names))]
        if len(similar) > 1:
            raise CheckpointError(f"{name} could be {similar[0]} or {similar[1]}: keep one of them.")
        return similar[0] if similar else None

    def _read(self, path: Path) -> dict[str, Tensor]:
        try:
            if path.suffix == ".safetensors":
                return load_file(path)
            state = torch.load(path, map_location="cpu")  # of tensors only, unless pickles are allowed
        except (OSError, RuntimeError, EOFError, SafetensorError, UnpicklingError) as error:
            raise CheckpointError(f"The weights in {path} cannot be read ({error}).") from error
        if not isinstance(state, dict):
            raise CheckpointError(f"{path} holds no named tensors.")
        return state


def _whole(network: str | None, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network of torchvision, with NaN for the classifier if it is missing: no metric uses it."""
    if network is None:
        return state
    from torchvision.models import get_model

    with torch.device("meta"):
        expected = get_model(network, weights=None).state_dict()
    missing = {name for name in expected.keys() - state.keys() if name.startswith("classifier.")}
    return state | {name: torch.tensor(torch.nan).expand(expected[name].shape) for name in missing}


def _is_empty(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isnan().any())


def _modules_of(package: str) -> list[ModuleType]:
    """The modules of a package that are loaded."""
    return [module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")]


def _import_architecture(kind: str) -> None:
    """Import the module of pyiqa that holds a kind of network, or all of them if no name of a module tells which."""
    from pyiqa import archs

    modules = [module.name for module in iter_modules(archs.__path__) if module.name.endswith("_arch")]
    likely = [name for name in modules if name.removesuffix("_arch").replace("_", "") == kind.lower()]
    for name in likely or modules:
        with nullcontext() if likely else suppress(Exception):  # some modules need further libraries
            import_module(f"{archs.__name__}.{name}")


@contextmanager
def _pkg_resources() -> Iterator[None]:
    """Within the block, clip can be imported: it takes packaging from pkg_resources, which new setuptools lack."""
    if find_spec("pkg_resources"):
        yield
        return
    sys.modules["pkg_resources"] = stand_in = ModuleType("pkg_resources")
    vars(stand_in)["packaging"] = packaging
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
