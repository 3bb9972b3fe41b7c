"""The README's picture: photos as people have them, enlarged in three ways, and the original where there is one.

python examples/before_after.py [OUTPUT]        (default: docs/images/before-after.jpg)
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xpsr_sdk import build_pipeline

HERE = Path(__file__).parent
WIDTH, HEIGHT, MARGIN, LABEL = 400, 280, 6, 30  # pixels
COLUMNS = ("bicubic x4", "Real-ESRGAN x4+", "restored", "original")
PHOTOS = {"photo": (440, 400), "web": (270, 120), "indoor": (520, 120)}  # with the left and top side of what is shown

pipeline, upscaler = build_pipeline(), build_pipeline(model="none", upscaler="realesrgan-x4plus")
sheet = Image.new("RGB", ((WIDTH + MARGIN) * len(COLUMNS) - MARGIN, LABEL + (HEIGHT + MARGIN) * len(PHOTOS)), "white")
for column, label in enumerate(COLUMNS):
    middle = column * (WIDTH + MARGIN) + WIDTH / 2, LABEL / 2
    ImageDraw.Draw(sheet).text(middle, label, "black", ImageFont.load_default(20), anchor="mm")
for row, (name, (left, top)) in enumerate(PHOTOS.items()):
    photo = Image.open(HERE / f"{name}.jpg").convert("RGB")
    restored = pipeline(photo, seed=1).image
    images = [photo.resize(restored.size, Image.Resampling.BICUBIC), upscaler(photo).image, restored]
    original = HERE / f"{name}-original.jpg"
    images += [Image.open(original).convert("RGB")] if original.exists() else []
    for column, image in enumerate(images):
        crop = image.crop((left, top, left + WIDTH, top + HEIGHT))
        sheet.paste(crop, (column * (WIDTH + MARGIN), LABEL + row * (HEIGHT + MARGIN)))
output = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "docs" / "images" / "before-after.jpg"
output.parent.mkdir(parents=True, exist_ok=True)
sheet.save(output, quality=92)
print(output)
