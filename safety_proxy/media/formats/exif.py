"""The one thing of EXIF that changes what is seen: which way up the picture is."""

from typing import Final

_PREFIX: Final = b"Exif\0\0"
_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
_ENTRY_BYTES: Final = 12
_MOST_ENTRIES: Final = 256


def orientation_of(exif: bytes) -> int:
    """1 to 8 as EXIF has it, 1 being upright; 1 too for metadata that is broken. Never raises."""
    while exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    order = {b"II*\0": False, b"MM\0*": True}.get(exif[:4])
    if order is None:
        return 1

    def number(offset: int, size: int) -> int:
        return int.from_bytes(exif[offset : offset + size], "big" if order else "little")

    start = number(4, 4) + 2
    for entry in range(min(number(start - 2, 2), _MOST_ENTRIES)):
        at = start + entry * _ENTRY_BYTES
        if number(at, 2) == _ORIENTATION and number(at + 2, 2) == _SHORT:
            found = number(at + 8, 2)
            return found if 1 <= found <= 8 else 1  # noqa: PLR2004 -- as EXIF numbers them
    return 1
