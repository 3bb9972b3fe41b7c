"""Restores a folder of photos with one pipeline, and goes on after those that fail.

python examples/folder.py PHOTOS OUTPUT
"""

import sys
from pathlib import Path

from xpsr_sdk import ImageError, build_pipeline
from xpsr_sdk.toolkit import find_images

photos, output = map(Path, sys.argv[1:3])
pipe = build_pipeline()
failed = 0
for photo in find_images(photos):
    target = output / photo.relative_to(photos).with_suffix(".png")
    if target.exists():
        continue  # done by an earlier run
    try:
        result = pipe(photo, seed=1)
    except ImageError as error:
        failed += 1
        print(f"Failed: {error}")
        continue
    result.save(target)
    print(f"{target}: {result.prompts.low}")
sys.exit(1 if failed else 0)
