"""The commands that need no model."""

import subprocess
import sys

from typer.testing import CliRunner

from safety_proxy import __version__
from safety_proxy.cli import cli
from safety_proxy.store.hashlist import test_picture as blocked_by_hash


def test_version_is_printed() -> None:
    """The package's own."""
    assert CliRunner().invoke(cli, ["version"]).output.strip() == __version__


def test_test_picture_goes_to_standard_output_as_it_is() -> None:
    """Redirected to a file it is the PNG whose hash is blocked."""
    result = subprocess.run(
        [sys.executable, "-m", "safety_proxy", "test-picture"], capture_output=True, check=True
    )
    assert result.stdout == blocked_by_hash()
