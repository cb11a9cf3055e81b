"""Write the picture that stands for a refused download: `python tools/make_placeholder.py`."""

from pathlib import Path

from PIL import Image

PLACEHOLDER = Path(__file__).resolve().parent.parent / "safety_proxy" / "proxy" / "placeholder.png"
SIZE = (512, 512)
NEUTRAL_GRAY = 0xBB


def main() -> None:
    """Plain gray says nothing, takes a theme's light and dark, and is one stored file for all."""
    Image.new("L", SIZE, NEUTRAL_GRAY).save(PLACEHOLDER, optimize=True)


if __name__ == "__main__":
    main()
