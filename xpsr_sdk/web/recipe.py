"""How to make a result again: the command line, and a few lines of Python."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from xpsr_sdk.config import PipelineConfig, RestoreConfig
from xpsr_sdk.web.catalogue import ONLY_WITH_MODEL, UPSCALER_ALONE

OF_MACHINE = {"device", "dtype", "execution"}
"""Settings of the server's machine rather than of the photo."""


class Recipe:
    """Writes recipes.

    Args:
        base: The settings of the operator.
        options: The names of the settings that the command line has, each with its option: ``"--steps"``.
    """

    def __init__(self, base: PipelineConfig, options: Mapping[str, str]) -> None:
        self._options = options
        limits = {"max_megapixels", "max_result_megapixels"}
        self._left_out = OF_MACHINE | (limits - base.model_fields_set)

    def __call__(self, config: PipelineConfig, photo: str, seed: int) -> dict[str, str]:
        """The recipe of a result.

        Args:
            config: All its settings but the seed.
            photo: The name of the photo's file.
            seed: The seed.
        """
        file = PurePosixPath(photo).name
        result = f"{PurePosixPath(file).stem}-restored.png"
        settings = config.model_dump(exclude_unset=True, exclude_none=True, exclude=self._left_out)
        if config.model != UPSCALER_ALONE:
            settings["seed"] = seed
        settings = {n: v for n, v in settings.items() if config.model != UPSCALER_ALONE or n not in ONLY_WITH_MODEL}
        settings["model"] = _short(config.model)
        if config.checkpoint:
            settings["checkpoint"] = _short(str(config.checkpoint))
        return {"command": self._command(file, result, settings), "python": _python(file, result, settings)}

    def _command(self, file: str, result: str, settings: Mapping[str, Any]) -> str:
        words = ["xpsr", "upscale", f"./{file}" if file.startswith("-") else file, "-o", result]
        for name, value in settings.items():
            if name in self._options:
                words += _words(self._options[name], value)
        return shlex.join(words)


def _words(option: str, value: Any) -> Iterator[str]:
    """An option with its value; of a part, its name and its own options."""
    if isinstance(value, bool):
        yield option if value else f"--no-{option.removeprefix('--')}"
    elif isinstance(value, dict):
        yield from (option, value["name"])
        for own, chosen in value.items():
            if own != "name":
                yield from (f"{option}-option", f"{own}={str(chosen).lower() if isinstance(chosen, bool) else chosen}")
    elif isinstance(value, tuple):
        for each in value:
            yield from (option, str(each))
    else:
        yield from (option, str(value))


def _python(file: str, result: str, settings: Mapping[str, Any]) -> str:
    of_photo = {name: value for name, value in settings.items() if name in RestoreConfig.model_fields}
    of_pipeline = {name: value for name, value in settings.items() if name not in of_photo}
    return "\n".join(
        [
            "from xpsr_sdk import build_pipeline",
            "",
            *_call("pipe = build_pipeline", [], of_pipeline),
            *_call("result = pipe", [repr(file)], of_photo),
            f"result.save({result!r})",
        ]
    )


def _call(function: str, arguments: list[str], keywords: Mapping[str, Any]) -> list[str]:
    words = [*arguments, *(f"{name}={value!r}" for name, value in keywords.items())]
    line = f"{function}({', '.join(words)})"
    return [line] if len(line) <= 88 else [f"{function}(", *(f"    {word}," for word in words), ")"]


def _short(place: str) -> str:
    """A path without the folders of the server; other names as they are."""
    return PurePosixPath(place).name if place.startswith("/") else place
