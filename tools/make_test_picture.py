"""Draws safety_proxy/store/test_picture.png, the harmless picture that is always blocked.

    python tools/make_test_picture.py

Drawing it again gives other bytes with another Pillow, and so another digest: do it only for a
reason, since admins keep copies. The PNG holds no metadata, so that pict-rs, which strips them,
stores the same bytes.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TARGET = Path(__file__).parent.parent / "safety_proxy" / "store" / "test_picture.png"
SIZE = (480, 270)
STRIPE = 30
LINES = ("SAFETY PROXY", "TEST PICTURE", "harmless, always blocked")


def draw() -> Image.Image:
    """Hazard stripes around three lines of text: recognizable, and like no photograph."""
    image = Image.new("P", SIZE, 0)
    image.putpalette([250, 204, 21, 24, 24, 27, 255, 255, 255])
    canvas = ImageDraw.Draw(image)
    width, height = SIZE
    for x in range(-height, width, 2 * STRIPE):
        canvas.polygon(
            [(x, height), (x + height, 0), (x + height + STRIPE, 0), (x + STRIPE, height)], fill=1
        )
    canvas.rectangle((30, 30, width - 31, height - 31), fill=2)
    for line, size, y in zip(LINES, (44, 44, 24), (80, 130, 190), strict=True):
        canvas.text((width / 2, y), line, fill=1, font=ImageFont.load_default(size), anchor="mm")
    return image


if __name__ == "__main__":
    draw().save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")
