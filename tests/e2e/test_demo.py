"""The README's first command, as a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import PICTRS_VERSIONS, pictrs_binary


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "safety_proxy", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env=os.environ | environment,
    )


def _demo(path: str) -> subprocess.CompletedProcess[str]:
    return _run("demo", "--once", PATH=path, COLUMNS="200")


def _serve(**environment: str) -> subprocess.CompletedProcess[str]:
    return _run("serve", **environment)


@pytest.mark.parametrize("upstream", ["stand-in", "real pict-rs"])
def test_demo_judges_every_sample_as_expected(upstream: str) -> None:
    """With the pict-rs on PATH, and with the stand-in that says it is one."""
    binary = pictrs_binary(PICTRS_VERSIONS[0])
    path = f"{binary.parent}:/usr/bin:/bin" if upstream == "real pict-rs" else "/nowhere"
    result = _demo(path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert upstream in result.stdout
    assert "known" in result.stdout
    assert "test picture" in result.stdout


def test_serve_with_a_wrong_setting_ends_with_2_and_says_which() -> None:
    """Before anything listens."""
    result = _serve(SAFETY_PROXY_LIMITS__MAX_FILES="none")
    assert result.returncode == 2
    assert "SAFETY_PROXY_LIMITS__MAX_FILES" in result.stderr


def test_serve_with_weights_that_cannot_be_read_ends_with_2(tmp_path: Path) -> None:
    """A weights file cut short is no endless retry."""
    weights = tmp_path / "cut.safetensors"
    weights.write_bytes(b"\0" * 100)
    result = _serve(
        SAFETY_PROXY_SERVER__PORT="0",
        SAFETY_PROXY_SERVER__ADMIN_PORT="0",
        SAFETY_PROXY_MODEL__NAME="ViT-B-32",
        SAFETY_PROXY_MODEL__WEIGHTS=str(weights),
    )
    assert result.returncode == 2, result.stderr
    assert "cannot be loaded" in result.stderr
