"""What passes from the decoder to the model: 8 bit RGB crops, and the shape the model wants."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CropSpec:
    """How the model wants its input; the fields are those of open_clip's PreprocessCfg."""

    height: int
    width: int
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill_color: int = 0
