"""The package and its tests fit each other: a test file for each module, each importable alone."""

import subprocess
import sys
from pathlib import Path

import pytest

import safety_proxy

PACKAGE = Path(safety_proxy.__file__).parent
TESTS = Path(__file__).parent

# Module -> why it has no test file of its own.
EXEMPT = {
    "__main__.py": "calls the commands, which tests/test_cli.py tests",
    "crops.py": "types alone",
    "evidence.py": "types alone",
    "demo/upstream.py": "finds a pict-rs for the demo, as tests/demo/test_run.py does",
    "inference/embedder.py": "a Protocol",
}
MODULES = sorted(
    file.relative_to(PACKAGE).as_posix()
    for file in PACKAGE.rglob("*.py")
    if file.name != "__init__.py"
)


def test_every_module_has_its_test_file() -> None:
    """tests/media/test_frames.py for safety_proxy/media/frames.py, and so on."""
    missing = [
        module
        for module in MODULES
        if module not in EXEMPT
        and not (TESTS / Path(module).parent / f"test_{Path(module).name}").is_file()
    ]
    assert missing == []


def test_exemptions_are_needed() -> None:
    """Each names a module that is there and has no test file."""
    for module in EXEMPT:
        assert module in MODULES
        assert not (TESTS / Path(module).parent / f"test_{Path(module).name}").exists()


@pytest.mark.parametrize(
    "layer",
    [
        "errors",
        "verdict",
        "crops",
        "settings",
        "metrics",
        "policy.judge",
        "proxy.server",
        "admin.server",
        "app",
    ],
)
def test_import_of_a_layer_needs_no_torch(layer: str) -> None:
    """Only inference.clip imports it, which takes seconds; every part below starts without."""
    code = f"import sys, safety_proxy.{layer}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_module_imports_alone() -> None:
    """Whichever comes first: no import depends on another having been done before."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for known in [m for m in sys.modules if m.split('.')[0] == 'safety_proxy']:\n"
        "        del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    names = [
        "safety_proxy." + module.removesuffix(".py").replace("/", ".")
        for module in MODULES
        if module != "__main__.py"
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
