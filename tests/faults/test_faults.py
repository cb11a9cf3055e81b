"""A short run of the fault test: the same phases and checks, with few requests in each."""

from pathlib import Path

import pytest

from tests.e2e.harness import PICTRS_VERSIONS, pictrs_binary
from tests.faults import report
from tests.faults.run import run

pytestmark = pytest.mark.e2e

# The phases' own least numbers, which meet each kind of fault, are more than this.
_REQUESTS = 300


@pytest.mark.timeout(300)
async def test_nothing_gets_in_and_nobody_waits_while_everything_breaks(tmp_path: Path) -> None:
    """Of the pictures that must not be stored none is, and no client is left without an answer."""
    pictrs_binary(PICTRS_VERSIONS[0])
    result = await run(tmp_path, requests=_REQUESTS, seed=1)
    assert not report.failed(result), report.text(result)
