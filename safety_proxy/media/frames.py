"""Bytes -> frames -> crops of the size that the model takes.

    sniff      what the file is, from its bytes                              media/sniff.py
    readers    which module reads it: png, jpeg, gif, webp, avif, jxl, video  media/readers.py
    stills     orientation, colors, transparency; which parts are looked at  media/stills.py
    animation  which frames are looked at                                    media/animation.py
    hidden     pictures that the file holds beside                           media/hidden.py

What a browser could show of the file is what the model sees, within `Bounds`; docs/media.md says
what is left out.
"""

import mmap

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Code, Frame, undecodable
from safety_proxy.media.hidden import hidden_frames
from safety_proxy.media.pdq import pdq_of, turned_pdqs
from safety_proxy.media.readers import prepare_decoders, read_any
from safety_proxy.media.stills import crops_of
from safety_proxy.media.window import Window

__all__ = ["Bounds", "Frame", "crops_of", "read_frames"]


def read_frames(data: mmap.mmap | bytes, spec: CropSpec, bounds: Bounds) -> list[Frame]:
    """The crops of a file that are to be judged, the usual one first; at least one.

    Blocks for the time of the decode, and trusts no decoder: call it in a process of its own.
    Raises UndecodableImage, whose `code` is one of `bounds.Code`, and nothing else. Of a damaged
    file what can be decoded is returned: whether to store it is for pict-rs to say.
    """
    prepare_decoders()
    window = Window(data)
    try:
        frames, rests = read_any(window, spec, bounds)
        hidden = hidden_frames(rests, frames, spec, bounds)
        return [_hashed(frame, bounds) for frame in [*frames, *hidden]]
    except UndecodableImage:
        raise
    except MemoryError as error:
        raise undecodable(Code.TOO_LARGE, "not enough memory to decode it") from error
    except Exception as error:
        # Decoders fail on hostile bytes with whatever exception the broken invariant gives.
        message = f"decoder failed: {type(error).__name__}: {error}"
        raise undecodable(Code.DAMAGED, message) from error


def _hashed(frame: Frame, bounds: Bounds) -> Frame:
    """With the hashes of the whole picture in its place."""
    if frame.whole is None:
        return frame
    pdq = turned_pdqs(frame.whole) if bounds.turned else (pdq_of(frame.whole),)
    return Frame(frame.crop, frame.where, pdq=pdq)
