"""What a paper compares: data sets, methods and metrics (the file of ``xpsr compare``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from xpsr_sdk.config import Component, Settings


def _folder_name(name: str) -> str:
    """The name, if a folder within the output can have it.

    Raises:
        ValueError: It cannot.
    """
    if name in ("", ".", "..") or set(name) & set("/\\:") or not name.isprintable():
        raise ValueError(f"{name!r} names a folder in the output, so it must be without /, \\ and :, and not empty.")
    return name


Name = Annotated[str, AfterValidator(_folder_name)]


class DataSet(Settings):
    """A data set: folders in which the photos are paired by name."""

    input: Path = Field(description="Folder of the degraded photos.")
    reference: Path | None = Field(None, description="Folder of the originals. None: metrics without reference only.")


class Method(Settings):
    """A method: a pipeline that restores the photos, or the results of another tool."""

    folder: str | None = Field(
        None, description="Folder of results; {data} in it stands for the name of the data set. None: restore them."
    )
    config: Path | None = Field(None, description="Config of the pipeline, as xpsr upscale --config takes it.")
    settings: dict[str, Any] = Field({}, description="Settings of the pipeline, which go before those of the config.")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Seeds; each gives results of its own.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.folder is not None and (self.config or self.settings):
            raise ValueError("a method has a folder of results, or a config and settings, not both.")
        return self


class Protocol(Settings):
    """What ``xpsr compare`` runs."""

    output: Path = Field(description="Folder for results, figures and reports.")
    data: dict[Name, DataSet] = Field(min_length=1, description="The data sets, by name.")
    methods: dict[Name, Method] = Field(
        min_length=1, description="The methods, by name; the others are compared with the first."
    )
    metrics: tuple[Component, ...] = Field(
        ("quick",), min_length=1, description='Metrics or presets, or metrics with options: {name = "psnr", crop = 4}.'
    )
    channel: Literal["y", "rgb"] = Field("y", description="What PSNR and SSIM measure: luma, or all three channels.")
    crop: int = Field(0, ge=0, description="Pixels left out at each side, for every metric without a crop of its own.")
    weights: Path | None = Field(None, description="Folder with the weights of the metrics. None: downloads.")
    device: str | None = Field(None, description="Where to restore and measure. None: the first one available.")
    batch: int = Field(1, ge=1, description="How many photos of one size are measured together.")
