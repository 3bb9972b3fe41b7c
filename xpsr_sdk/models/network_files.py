"""Which files of a folder hold the weights of its network: one, or several with an index; plain, or of a variant.

A variant is a copy of the weights in another precision, such as ``model.fp16.safetensors``. The plain weights are read
where there are any, then the variant ``fp16``, then the only one that there is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from xpsr_sdk.errors import CheckpointError, did_you_mean
from xpsr_sdk.files.reading import check_regular, read_json
from xpsr_sdk.weight_files import read_tensors

STEMS = ("diffusion_pytorch_model", "model")
"""How the files of diffusers and of transformers are named."""
_WHOLE = re.compile(rf"({'|'.join(STEMS)})(?:\.(?P<variant>[\w-]+))?\.safetensors")
_INDEX = re.compile(rf"({'|'.join(STEMS)})\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class NetworkFiles:
    """The files of a network.

    Attributes:
        files: Safetensors files, which together hold every tensor once.
        variant: The variant that was chosen. None: the plain weights.
        index: The index that names the files, where there are several.
    """

    files: tuple[Path, ...]
    variant: str | None = None
    index: Path | None = None

    def read(self) -> dict[str, Tensor]:
        """All tensors, on the CPU. Where possible, they stay mapped to the files.

        Raises:
            CheckpointError: A file is damaged, or does not hold the tensors that the index names.
        """
        tensors = {name: tensor for file in self.files for name, tensor in read_tensors(file).items()}
        named = _weight_map(self.index) if self.index else {}
        if missing := sorted(named.keys() - tensors.keys()):
            raise CheckpointError(
                f"{self.files[0].with_name(named[missing[0]])} lacks {missing[0]}, which its index names."
            )
        return tensors


def find_network_files(folder: Path, variant: str | None = None) -> NetworkFiles:
    """The files that hold the network of a folder.

    Args:
        folder: The folder.
        variant: The variant that is wanted where there is one. None: the plain weights.

    Raises:
        CheckpointError: There are no weights but pickled ones, a shard is missing, or an index names files elsewhere.
    """
    found = {match["variant"]: file for file, match in _matches(folder, _WHOLE) if not _SHARD.search(file.name)}
    indexes = {match["variant"]: file for file, match in _matches(folder, _INDEX)}
    for file in (*found.values(), *indexes.values()):
        check_regular(file, CheckpointError)
    chosen = _choose({*found, *indexes}, variant, folder)
    if chosen in found:
        return NetworkFiles((found[chosen],), chosen)
    index = indexes[chosen]
    shards = [folder / name for name in sorted(set(_weight_map(index).values()))]
    for shard in shards:
        check_regular(shard, CheckpointError)
    return NetworkFiles(tuple(shards), chosen, index)


def has_network_files(folder: Path) -> bool:
    """Whether a folder holds weights in safetensors files."""
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index*.json"))


def _matches(folder: Path, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
    return [(file, match) for file in sorted(folder.glob("*")) if (match := pattern.fullmatch(file.name))]


def _choose(variants: set[str | None], wanted: str | None, folder: Path) -> str | None:
    """The variant to read: the wanted one, else the plain weights, else fp16, else the only one."""
    if not variants:
        raise CheckpointError(_nothing_in(folder))
    for each in (wanted, None, "fp16"):
        if each in variants:
            return each
    if len(variants) > 1:
        names = [str(variant) for variant in variants]
        raise CheckpointError(f"{folder} holds several variants and no plain weights. {did_you_mean('', names)}")
    return variants.pop()


def _nothing_in(folder: Path) -> str:
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if shards := [name for name in others if _SHARD.search(name)]:
        return f"{folder} holds {shards[0]}, but no index (*.safetensors.index.json) that says what is in its shards."
    if others:
        names = " or ".join(f"{stem}.safetensors" for stem in STEMS)
        return f"{folder} holds {others[0]}, which is not named as weights are: {names}."
    pickled = sorted(file.name for file in folder.glob("*.bin"))
    hint = f": {pickled[0]} is pickled, and pickled code could do anything" if pickled else ""
    return f"{folder} holds no safetensors file{hint}."


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, by name."""
    named = read_json(index, CheckpointError).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError(f"{index} is damaged: weight_map must name a file for each tensor.")
    for name in named.values():
        if Path(name).name != name or "\\" in name:
            raise CheckpointError(f"{index} is refused: it names a file outside of its folder, {name!r}.")
    return named
