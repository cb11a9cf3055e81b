"""The pictures of the demo by what its policy makes of them, and new ones like them."""

import tomllib
from io import BytesIO
from pathlib import Path

from PIL import Image

SAMPLES = Path(__file__).resolve().parents[2] / "safety_proxy" / "demo" / "samples"


def bodies(action: str) -> list[bytes]:
    """The sample files that the manifest expects this action for, at least one."""
    manifest = tomllib.loads((SAMPLES / "manifest.toml").read_text(encoding="utf-8"))
    found = [
        (SAMPLES / entry["file"]).read_bytes()
        for entry in manifest["samples"]
        if entry["action"] == action
    ]
    assert found, f"no sample with action {action}"
    return found


def fresh(action: str, number: int = 0) -> bytes:
    """A picture like a sample of this action, with bytes and crops of its own `number`."""
    with Image.open(BytesIO(bodies(action)[0])) as image:
        picture = image.convert("RGB")
    # A small patch in a corner: other bytes, other crops, the same verdict.
    picture.paste((number % 256, number // 256 % 256, 77), (0, 0, 12, 12))
    body = BytesIO()
    picture.save(body, "PNG")
    return body.getvalue()


def padded(body: bytes, size: int) -> bytes:
    """`body` as a JPEG of `size` bytes: the decoder stops at the end mark, the rest is zeros."""
    with Image.open(BytesIO(body)) as image:
        picture = BytesIO()
        image.convert("RGB").save(picture, "JPEG")
    return picture.getvalue().ljust(size, b"\0")
