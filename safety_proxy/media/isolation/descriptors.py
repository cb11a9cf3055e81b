"""What a decoder is handed besides a message: the file, and memory to lay its crops in.

Both as descriptors that a hostile one cannot turn round: it can neither write the file nor resize
the memory, which would end the proxy as it reads them.
"""

import asyncio
import fcntl
import os
from types import TracebackType
from typing import Final, Self

import numpy as np

from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.media.isolation import wire

# Crops copied before other requests get a turn: half a millisecond for a 224 x 224 model.
_CROPS_AT_ONCE: Final = 16

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def reopen(descriptor: int) -> int:
    """Another descriptor of the same file, for reading only; whoever asks closes it.

    The spool's own is open for writing: what was judged could be changed through it, or cut short
    under the proxy's feet, which reads it as mapped memory. Raises OSError.
    """
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


class CropMemory:
    """Memory for the crops of one file, which has no name and is taken up as far as it is used.

    It is new for each file: nothing of it is left for the next, or in the hands of the one before.
    """

    def __init__(self, spec: CropSpec) -> None:
        self._spec = spec
        self.descriptor = os.memfd_create("crops", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, wire.MOST_FRAMES * wire.crop_bytes(spec))
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)

    async def read(self, count: int) -> list[UInt8Array]:
        """The first `count` crops, each (height, width, 3), copied."""
        crops = []
        for index in range(count):
            if index and index % _CROPS_AT_ONCE == 0:
                await asyncio.sleep(0)
            crop = np.empty((self._spec.height, self._spec.width, 3), np.uint8)
            # The whole of it: the memory cannot be shorter.
            os.preadv(self.descriptor, [crop.data], index * crop.nbytes)
            crops.append(crop)
        return crops

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)
