"""What decides knows nothing of what acts: three rooms work where DSPy cannot even be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dynscale_dspy

ROOT = Path(dynscale_dspy.__file__).parent
ROOMS = ("selection", "allocation", "sampling")
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
)

PROGRAM = """
import importlib, sys
sys.modules["dspy"] = None  # importing it raises ModuleNotFoundError
importlib.import_module(sys.argv[1])
acting = ("budget", "execution", "reporting", "module", "wrapping")
loaded = [name for name in sys.modules if name.startswith(tuple(f"dynscale_dspy.{room}" for room in acting))]
loaded += [name for name in ("litellm", "openai", "sqlite3", "asyncio") if name in sys.modules]
assert not loaded, f"{sys.argv[1]} brings {loaded}"
"""


def test_every_module_of_the_three_rooms_is_looked_at():
    assert {"dynscale_dspy.sampling.plan", "dynscale_dspy.selection", "dynscale_dspy.allocation.policies"} < set(
        MODULES
    )


@pytest.mark.parametrize("module", MODULES)
def test_it_is_imported_without_dspy(module):
    done = subprocess.run([sys.executable, "-c", PROGRAM, module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
