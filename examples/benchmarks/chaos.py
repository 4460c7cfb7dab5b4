"""One budget under fire: seven kinds of fault, and books that are compared with the server's own count.

    python examples/benchmarks/chaos.py [--quick] [--only KIND ...] [--json OUT]

Each kind runs in processes of its own against a server on loopback; `storms/` has them. Of calls there are those that
were answered, those whose samples all failed, those that were refused for want of budget or of its file before they
had a sample, those that were cut off from outside (cancelled, interrupted, killed), those that were lost though a
sample succeeded, and those that did not end within their bound. Over-spent are caps that were passed, leaked is what
stays reserved or open in the end. The requests that are booked and those that the server counted differ by those that
killed workers had under way, of which the books set aside more than they had asked for.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table
from storms import cancels, forks, interrupts, routes, storage, waits, wire

KINDS: dict[str, tuple[ModuleType, float]] = {
    "wire": (wire, 0.33),
    "forks": (forks, 0.22),
    "interrupts": (interrupts, 0.1),
    "storage": (storage, 0.1),
    "cancels": (cancels, 0.14),
    "routes": (routes, 0.03),
    "waits": (waits, 0.08),
}
"""And their shares of the calls."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), help="these kinds alone, with their shares")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="300 calls")
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        logging.disable(logging.CRITICAL)
        kind, settings = arguments.worker
        KINDS[kind][0].work(**json.loads(settings))
        return
    if arguments.quick:
        arguments.calls = 300
    rows: list[dict[str, Any]] = []
    for kind in arguments.only or KINDS:
        module, share = KINDS[kind]
        began = time.perf_counter()
        rows += module.run(round(share * arguments.calls), arguments.seed, arguments.quick)
        rows[-1]["seconds"] = round(time.perf_counter() - began, 1)
    show(rows)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
