"""``python tests/compat/versions.py``: the tests that need no checkpoint, on several DSPys and Pythons.

Each pair gets a fresh virtual environment and runs with the scripted model and the fake server. (The lab's checkpoint
knows the wording of the newest DSPy's prompts only.) Prints a Markdown table; exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DSPY = ("3.1.3", "3.2.1", "3.3.1", "3.4.1")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
CHECKPOINT = ("tests/lab", "tests/replay/test_recording.py", "tests/test_cli.py", "tests/test_end_to_end.py")
PAGES = ("tests/test_readme.py",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dspy", nargs="*", default=DSPY, help="versions, newest last")
    parser.add_argument("--python", nargs="*", default=PYTHONS, help="versions, or paths of interpreters")
    parser.add_argument("--all", action="store_true", help="every pair; otherwise a cross through newest and oldest")
    parser.add_argument("--workers", default="auto", help="of pytest-xdist")
    parser.add_argument("tests", nargs="*", default=[], help="only these tests")
    options = parser.parse_intermixed_args()
    pythons = {version: found for version in options.python if (found := interpreter(version))}
    missing = [version for version in options.python if version not in pythons]
    pairs = [
        (python, dspy)
        for python in pythons
        for dspy in options.dspy
        if options.all or dspy == options.dspy[-1] or python == next(iter(pythons))
    ]
    print("| DSPy | Python | outcome |\n|---|---|---|")
    failed = False
    for python, dspy in pairs:
        outcome, passed = run(pythons[python], dspy, options.workers, options.tests)
        failed = failed or not passed
        print(f"| {dspy} | {python} | {outcome} |", flush=True)
    for version in missing:
        print(f"| | {version} | no such interpreter here |")
    sys.exit(failed)


def interpreter(version: str) -> str | None:
    """An interpreter on the path, by version."""
    return shutil.which(version) or shutil.which(f"python{version}")


def run(python: str, dspy: str, workers: str, tests: list[str]) -> tuple[str, bool]:
    """The outcome of one pair, in pytest's words, and whether all passed."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        inside = Path(folder, "bin", "python")
        install = [inside, "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[test]", f"dspy=={dspy}"]
        installed = subprocess.run(install, capture_output=True, text=True, check=False)
        if installed.returncode:
            return f"cannot be installed: {installed.stderr.strip().splitlines()[-1]}", False
        ignored = [f"--ignore={path}" for path in (*CHECKPOINT, *PAGES, "dynscale_dspy/lab")]
        command = [inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers, *ignored, *tests]
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            print(line, file=sys.stderr)
    found = re.findall(r"^(?:\d+ \w+,? ?)+ in", done.stdout, flags=re.MULTILINE)
    return (found[-1].removesuffix(" in") if found else "no outcome"), done.returncode == 0


if __name__ == "__main__":
    main()
