"""Whatever a file asks for, reading it ends in frames or in UndecodableImage, within bounds."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from safety_proxy.media.bounds import Code
from tests.media.caged import MEMORY_BYTES
from tests.media.hostile import CUTS, FILES, MUTATIONS, cut, good_files, mutated, noise

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {"frames", *Code}

# Of processor time, on a machine that has other things to do.
MOST_SECONDS = 25

Outcomes = Mapping[str, Mapping[str, Any]]


def outcomes_of(folder: Path, files: Iterable[tuple[str, bytes]]) -> Outcomes:
    """What reading each of these files ended in, by name."""
    for name, body in files:
        (folder / name).write_bytes(body)
    done = subprocess.run(
        [sys.executable, "-m", "tests.media.caged", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    assert not done.stderr  # decoders are quiet
    outcomes: Outcomes = json.loads(done.stdout)
    return outcomes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Of all hostile files."""
    made = ((name, make()) for name, make in FILES.items())
    return outcomes_of(tmp_path_factory.mktemp("hostile"), made)


@pytest.mark.timeout(900)  # the first test waits for all
@pytest.mark.parametrize("name", FILES)
def test_hostile_file_is_read_or_refused_within_bounds(name: str, outcomes: Outcomes) -> None:
    """No other exception, no crash, no more than so much time and memory."""
    outcome = outcomes[name]
    assert outcome["result"] in EXPECTED, outcome
    assert outcome["seconds"] <= MOST_SECONDS, outcome
    assert outcome["peak_mb"] <= MEMORY_BYTES / 2**20, outcome


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", good_files())
def test_damaged_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    """Cut off, changed at random, or noise behind the first bytes."""
    body = good_files()[name]
    files = {
        **{f"cut-{number}": data for number, data in enumerate(cut(body))},
        **{f"mutated-{number}": data for number, data in enumerate(mutated(body, name))},
        **{f"noise-{number}": data for number, data in enumerate(noise(body, name))},
    }
    outcomes = outcomes_of(tmp_path, [("good", body), *files.items()])
    assert len(outcomes) > CUTS + MUTATIONS
    assert outcomes["good"]["result"] == "frames"
    strange = {
        name: outcome
        for name, outcome in outcomes.items()
        if outcome["result"] not in EXPECTED or outcome["seconds"] > MOST_SECONDS
    }
    assert not strange
