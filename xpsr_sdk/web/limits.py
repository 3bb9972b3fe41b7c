"""What the operator of the page allows its visitors."""

from __future__ import annotations

from pydantic import Field

from xpsr_sdk.config import Settings


class Limits(Settings):
    """The limits of the page, which keep one visitor from using up what others need."""

    max_file_mb: float = Field(50.0, gt=0, description="Megabytes of a file that is uploaded.")
    max_zip_mb: float = Field(500.0, gt=0, description="Megabytes of a ZIP file of photos that is uploaded.")
    max_megapixels: float = Field(50.0, gt=0, description="Megapixels of a photo.")
    max_result_megapixels: float = Field(64.0, gt=0, description="Megapixels of a result.")
    queue_size: int = Field(200, ge=1, description="Photos of all visitors that may wait at a time.")
    photos_each: int = Field(50, ge=1, description="Photos of one visitor that may wait at a time.")
    minutes_each: float = Field(
        30.0, gt=0, le=10_000, description="Minutes after which the restoration of a photo is ended."
    )
    keep_minutes: float = Field(
        60.0, gt=0, le=1_000_000, description="Minutes after which a visitor's files are deleted."
    )
    max_disk_gb: float = Field(10.0, gt=0, description="Gigabytes that the files of all visitors may take.")
    warm_models: int = Field(2, ge=1, description="Models that stay loaded; the one used last stays longest.")
