"""What decides knows nothing of what acts: three rooms work where DSPy cannot even be imported."""

from __future__ import annotations

import json
import os
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
import importlib, json, os, sys, traceback
import numpy  # which takes most of the time, and which most of them import
sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[1]  # each file is compiled once, elsewhere
sys.modules["dspy"] = None  # importing it raises ModuleNotFoundError

def look(module):
    importlib.import_module(module)
    acting = ("budget", "execution", "reporting", "module", "wrapping")
    loaded = [name for name in sys.modules if name.startswith(tuple(f"dynscale_dspy.{room}" for room in acting))]
    loaded += [name for name in ("litellm", "openai", "sqlite3", "asyncio") if name in sys.modules]
    assert not loaded, f"{module} brings {loaded}"

found = {}
for module in sys.argv[2:]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        words = ""
        try:
            look(module)
        except BaseException:
            words = traceback.format_exc()
        os.write(writer, words.encode()[:2000])  # which the pipe holds, so that nobody need read yet
        os._exit(bool(words))
    os.close(writer)
    status = os.waitpid(child, 0)[1]
    with open(reader, encoding="utf-8", errors="replace") as told:
        found[module] = told.read() or (f"ended with {status}" if status else "")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each module's import fails with, or nothing: each is imported in a process of its own, where none was."""
    bytecode = str(tmp_path_factory.mktemp("bytecode"))
    done = subprocess.run([sys.executable, "-c", PROGRAM, bytecode, *MODULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_module_of_the_three_rooms_is_looked_at() -> None:
    assert {"dynscale_dspy.sampling.plan", "dynscale_dspy.selection", "dynscale_dspy.allocation.policies"} < set(
        MODULES
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("module", MODULES)
def test_it_is_imported_without_dspy(module: str, problems: dict[str, str]) -> None:
    assert problems[module] == ""
