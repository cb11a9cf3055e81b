"""What is known of a picture, apart from any policy: all that a verdict is made of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pdq:
    """A PDQ hash: 256 bits that stay nearly the same when a picture is encoded anew.

    quality: 0 to 100; a flat picture has a low one, and its hash then says nothing.
    """

    bits: bytes
    quality: int


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a scan found out about the bytes whose digest is `sha256`.

    sha256, sha1, md5: of the bytes, lower-case hex.
    media_type: from the bytes, such as "image/webp".
    model: the fingerprint of the model that `embeddings` are of.
    embeddings: (F, D) float32, L2-normalized, a row for each crop that was looked at.
    places: for each row where in the file it was seen, as `Reason.where` has it.
    pdq: of each picture in the file that a list could hold.
    look: how it was chosen which crops to look at, see `look.Viewer.version`.
    """

    sha256: str
    sha1: str
    md5: str
    media_type: str
    model: str
    embeddings: Float32Array
    places: tuple[str, ...]
    pdq: tuple[Pdq, ...] = ()
    look: str = ""
