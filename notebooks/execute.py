"""Run the notebooks top to bottom on the model in the box, and keep what they print.

python notebooks/execute.py            # run all, and write their outputs
python notebooks/execute.py --check    # run all, and leave the files as they are: what CI does
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
LONGEST = 300
"""Seconds for one cell, on a machine that is busy with other things."""


def execute(path: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of a fresh run, in a cache of its own so that no earlier run is remembered."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "DSPY_CACHEDIR": cache,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "PYTHONWARNINGS": "ignore:IProgress",  # progress bars are off
        }
        client = NotebookClient(
            notebook, timeout=LONGEST, coalesce_streams=True, resources={"metadata": {"path": cache}}
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day differ from run to run
        for output in cell.get("outputs", ()):
            # The address of an object in memory says nothing and differs, too.
            if "text/plain" in output.get("data", {}):
                output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", output.data["text/plain"])
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="leave the files as they are")
    parser.add_argument("notebooks", nargs="*", type=Path, help="all by default")
    arguments = parser.parse_args()
    for path in arguments.notebooks or sorted(FOLDER.glob("*.ipynb")):
        began = time.perf_counter()
        notebook = execute(path)
        print(f"{path.name}: {time.perf_counter() - began:.0f} s", flush=True)
        if not arguments.check:
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
