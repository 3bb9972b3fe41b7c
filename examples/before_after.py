"""Restores examples/photo.jpg, and joins the middle of the bicubic, the restored and the original photo in one picture.

python examples/before_after.py [OUTPUT]        (default: docs/images/before-after.png)
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xpsr_sdk import build_pipeline

HERE = Path(__file__).parent
MARGIN, LABEL = 8, 32  # pixels

output = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "docs" / "images" / "before-after.png"
photo = Image.open(HERE / "photo.jpg").convert("RGB")
restored = build_pipeline()(photo, seed=1).image
panels = {
    "bicubic x4": photo.resize(restored.size, Image.Resampling.BICUBIC),
    "restored": restored,
    "original": Image.open(HERE / "photo-original.jpg").convert("RGB"),
}

side = min(restored.size)
left, top = ((length - side) // 2 for length in restored.size)
sheet = Image.new("RGB", ((side + MARGIN) * len(panels) - MARGIN, side + LABEL), "white")
draw = ImageDraw.Draw(sheet)
for i, (label, image) in enumerate(panels.items()):
    x = i * (side + MARGIN)
    draw.text((x + side / 2, LABEL / 2), label, "black", ImageFont.load_default(20), anchor="mm")
    sheet.paste(image.crop((left, top, left + side, top + side)), (x, LABEL))
output.parent.mkdir(parents=True, exist_ok=True)
sheet.save(output)
print(output)
