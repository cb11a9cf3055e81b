"""Reads files, each in a process of its own with bounds on memory and time, and says what came.

python -m tests.media.caged FOLDER      prints a JSON object of outcomes, by file name
"""

import json
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.frames import read_frames

MEMORY_BYTES = 1536 * 1024 * 1024
PROCESSOR_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Outcome:
    """result: `frames`, the code of an UndecodableImage, or what else happened.

    detail: for people. seconds: of processor time. peak_mb: most memory, what was there before
    included.
    """

    result: str
    detail: str
    seconds: float
    peak_mb: int


def outcome_of(data: bytes) -> tuple[str, str]:
    """What reading the bytes ends in, which is one of the first two unless something is wrong."""
    try:
        frames = read_frames(data, CropSpec(224, 224), Bounds())
    except UndecodableImage as error:
        return error.code, str(error)
    except BaseException as error:  # noqa: BLE001 -- whatever comes is what is asked for
        return type(error).__name__, str(error)
    shapes = {(frame.crop.shape, frame.crop.dtype.name) for frame in frames}
    return ("frames" if shapes == {((224, 224, 3), "uint8")} else "wrong crops"), f"{len(frames)}"


def caged(path: Path) -> Outcome:
    """The outcome of one file, read in a process that is forked for it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.write(writing, json.dumps(outcome_of(path.read_bytes())).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read()
    _, status, used = os.wait4(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    result, detail = json.loads(said) if said else ("crash", "")
    if ended < 0:
        result, detail = "crash", signal.Signals(-ended).name
    return Outcome(result, detail[:200], used.ru_utime + used.ru_stime, used.ru_maxrss // 1024)


def main(folder: Path) -> None:
    """Prints the outcomes of all files in the folder."""
    outcomes = {path.name: asdict(caged(path)) for path in sorted(folder.iterdir())}
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
