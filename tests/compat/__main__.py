"""``python -m tests.compat --table``: run every cell and print the table; with ``--write``, put it into the page."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before anything imports LiteLLM, which would fetch a price list

import argparse
from pathlib import Path

import dspy

from tests.compat.server import ModelServer
from tests.compat.table import BEGIN, END, measured, render

PAGE = Path(__file__).parents[2] / "docs" / "compatibility-measured.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=__doc__)
    parser.add_argument("--table", action="store_true", required=True, help="run every cell and print the table")
    parser.add_argument("--write", action="store_true", help=f"also put it into {PAGE.name}")
    options = parser.parse_args()
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    server = ModelServer()
    try:
        table = render(measured(server))
    finally:
        server.close()
    print(table)
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
