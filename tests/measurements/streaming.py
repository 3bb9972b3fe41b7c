"""The memory of reading, enlarging, joining and writing a photo in regions, without a model.

python -m tests.measurements.streaming 8192 --region 1024
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import pyvips

from xpsr_sdk.data.images import read_picture, write_picture
from xpsr_sdk.engine.canvas import Canvas
from xpsr_sdk.engine.region_input import resized_region
from xpsr_sdk.engine.regions import plan_regions


def watch(peaks: dict[str, int]) -> None:
    """Keep the peaks, in MiB, of what the process holds itself and of what it maps from files (Linux)."""
    while True:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]) // 1024)
        time.sleep(0.1)


def stream(side: int, region: int) -> None:
    """Enlarge a photo to ``side`` x ``side`` pixels, from a JPEG file to a TIFF file."""
    with tempfile.TemporaryDirectory() as folder:
        photo = pyvips.Image.new_from_file("examples/photo.jpg")
        photo.resize(side / 4 / photo.width, vscale=side / 4 / photo.height).write_to_file(f"{folder}/photo.jpg")
        picture = read_picture(Path(folder, "photo.jpg"))
        canvas = Canvas(side, side, picture, on_disk=True)
        for each in plan_regions(side, side, region, 128, 4):
            canvas.paste(each, *resized_region(picture, each, side, side))
        write_picture(canvas.picture(), Path(folder, "enlarged.tif"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", type=int)
    parser.add_argument("--region", type=int, default=1024)
    arguments = parser.parse_args()
    found = {"RssAnon": 0, "RssFile": 0}
    threading.Thread(target=watch, args=[found], daemon=True).start()
    stream(arguments.side, arguments.region)
    print(f"{arguments.side} x {arguments.side}: {found['RssAnon']} MiB of its own, {found['RssFile']} MiB of files")
