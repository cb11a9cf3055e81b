"""Files of every kind that pict-rs takes, with an area of a color in the place that a name says.

Purple, which the test policy blocks, stands in for what has to be found; where the same file has
another color there, nothing may be.

    python -m tests.media.corpus FOLDER     writes both versions of all of them
"""

import sys
from pathlib import Path

from tests.media.samples import animations, beneath, hidden, items, stills, videos
from tests.media.samples.tools import HARMLESS, Make, MissingTool
from tests.pictures import PURPLE

# By name, which ends as a file of this kind does. A maker is given the color; it raises MissingTool
# where the program is not there that makes such files.
PAIRS: dict[str, Make] = {
    **stills.PAIRS,
    **hidden.PAIRS,
    **items.PAIRS,
    **animations.PAIRS,
    **beneath.PAIRS,
    **videos.PAIRS,
}


def write(folder: Path) -> None:
    """Writes both versions of all files, and says which could not be made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PAIRS.items():
        try:
            for version, color in (("hit", PURPLE), ("clean", HARMLESS)):
                (folder / f"{version}-{name}").write_bytes(make(color))
        except MissingTool as missing:
            sys.stderr.write(f"*** {name} was not made: {missing}\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
