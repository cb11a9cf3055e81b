"""Files that other programs make, for tests that can do without."""

from collections.abc import Callable

from tests.e2e.harness import missing
from tests.media.samples.tools import MissingTool


def made_by_or_skip(make: Callable[[], bytes]) -> bytes:
    """What `make` gives; skips the test, or fails it, where the program is missing."""
    try:
        return make()
    except MissingTool as error:
        missing(str(error))
