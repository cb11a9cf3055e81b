"""Tests of safety_proxy/cli.py: the commands that need no model, and how `serve` begins."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

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


def test_serve_logs_in_the_format_of_the_settings_and_no_password(tmp_path: Path) -> None:
    """A line says where it listens; of pict-rs' address host and port."""
    settings = {
        "SERVER__PORT": "0",
        "SERVER__ADMIN_PORT": "0",
        "UPSTREAM__URL": "http://user:s3cr3t@127.0.0.1:9/",
        "MODEL__NAME": "no such model",
        "STORE__FOLDER": str(tmp_path),
        "LOG_FORMAT": "json",
    }
    environment = {f"SAFETY_PROXY_{key}": value for key, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "safety_proxy", "serve"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "listening" in line)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert "s3cr3t" not in line
    entry = json.loads(line)
    assert (entry["event"], entry["pictrs"]) == ("listening", "127.0.0.1:9")
    assert entry["public"].startswith("127.0.0.1:")
    assert entry["public"] != "127.0.0.1:0"
