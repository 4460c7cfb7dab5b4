"""A model that wants to be left alone, for a tenth of a second or for an hour, beside one that is well.

Half of the first one's requests are refused with status 429 or 503 and a Retry-After. Both models spend one pool. Each
call of the first has a deadline of its own, which it has to keep; those of the second may not notice.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import Any

from dynscale_dspy import BudgetPool
from dynscale_dspy.testing import BUSY_FAULTS, FakeServer
from storms.common import (
    Books,
    Calls,
    Noting,
    finish,
    language_model,
    limits,
    parts,
    row,
    start,
    started,
    texts_in,
    texts_of,
)

KINDS = ("any number at once", "max_concurrency")
ASKED = (0.1, 0.3, 1.0, 10.0, 600.0, 3600.0)
"""Seconds."""
DEADLINE, BOUND = 2.0, 10.0


def run(calls: int, seed: int, quick: bool) -> list[dict[str, Any]]:
    faults = ("429_retry_after", *BUSY_FAULTS)
    with (
        tempfile.TemporaryDirectory() as folder,
        FakeServer(
            calls, seed=seed, median_latency=0.02, fault_rate=0.5, faults=faults, retry_after=ASKED, record=0
        ) as busy,
        FakeServer(calls, seed=seed, median_latency=0.02, record=0) as well,
    ):
        texts_of(well, folder)
        told = finish(start("waits", folder=folder, urls=[busy.url, well.url]))
        refused = busy.wait_until(lambda now: now.in_flight == 0, timeout=60)
        served = well.wait_until(lambda now: now.in_flight == 0, timeout=60)
    met = f"{sum(refused.faults.values()):,} x Retry-After, up to an hour"
    return [row("Retry-After storm", calls, told["ends"], Books(**told["books"]), [refused, served], met=met)]


def work(folder: str, urls: list[str]) -> None:
    busy, well = (language_model(url, num_retries=2) for url in urls)
    ends, books = Counter(), Books()
    for kind, texts in parts(texts_in(folder), KINDS):
        most = 8 if kind == "max_concurrency" else None
        pool = BudgetPool(max_concurrency=most, **limits(len(texts)))
        scope = partial(pool.scope, deadline=DEADLINE)
        patient = Calls(pool, bound=BOUND, grace=1.0, program=Noting(busy), around=scope)
        calls = Calls(pool, bound=BOUND, program=Noting(well))
        beside = started(lambda patient=patient, texts=texts: patient.both(texts[::2], 6, 6))
        calls.both(texts[1::2], 2, 2)
        calls.wait_for([beside])
        calls.settle()
        calls.left()
        patient.left()
        noticed = calls.ends.pop("failed", 0) + calls.ends.pop("refused", 0)
        ends += calls.ends + patient.ends + Counter(lost=noticed)
        books += Books.of(pool)
    print(json.dumps({"ends": ends, "books": asdict(books)}))
