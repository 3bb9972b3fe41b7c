"""Results as visitors download them: of the type, quality and metadata that they choose."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from xpsr_sdk.config import MetadataTreatment, OutputConfig
from xpsr_sdk.data.images import check_fits, read_picture, write_picture
from xpsr_sdk.web.jobs import Job


class Download(OutputConfig):
    """How a result is written.

    Attributes:
        metadata: Whether EXIF, XMP and IPTC metadata are kept, or left out.
    """

    metadata: MetadataTreatment = "keep"

    @property
    def ending(self) -> str:
        """The type of the file, without a dot."""
        return self.format or "png"


def name_of(job: Job, chosen: Download, with_folders: bool = False) -> str:
    """The name of a result's file: that of the photo, and what tells it apart."""
    path = PurePosixPath(job.photo.name)
    title = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in job.title)
    own = f"{path.stem}-restored{'-' if title else ''}{title}.{chosen.ending}"
    return str(path.with_name(own)) if with_folders else own


def write_download(job: Job, chosen: Download, file: Path) -> None:
    """Write a result.

    Raises:
        ImageError: The type of file cannot hold it.
    """
    assert job.file is not None, "the job is done"
    width, height = job.details["width"], job.details["height"]
    check_fits(Path(name_of(job, chosen)), width, height, chosen.ending)
    picture = read_picture(job.file, max_megapixels=width * height / 1e6 + 1)
    write_picture(picture if chosen.metadata == "keep" else picture.without_metadata(), file, chosen.quality)


def in_words(query: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``Download`` in a query, without those that are empty."""
    return {name: value for name, value in query.items() if name in Download.model_fields and value not in ("", None)}
