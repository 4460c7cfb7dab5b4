"""What can be told of rows without a cluster. :mod:`tests.distributed.test_ray` has one."""

from __future__ import annotations

import datetime
import json

import dspy
import pydantic

from dynscale_dspy.distributed.rows import COSTS, _Log, _plain, _read


class City(pydantic.BaseModel):
    name: str
    founded: datetime.date
    twins: list[str] = []


def test_values_are_what_arrow_and_json_can_hold():
    bern = City(name="Bern", founded=datetime.date(1191, 1, 1), twins=["x"])
    told = {"name": "Bern", "founded": "1191-01-01", "twins": ["x"]}
    code = dspy.Code["python"](code="x = 1")
    assert _plain([bern, code, {"a": (1, None)}, datetime.date(2020, 1, 2)]) == [
        told,
        "x = 1",
        {"a": [1, None]},
        "2020-01-02",
    ]


def test_what_is_logged_is_found_again_and_what_was_cut_off_is_not(tmp_path):
    with _Log(tmp_path, ["1", "2"]) as log:
        log.add("1", {"answer": "A"})
        (path,) = tmp_path.iterdir()
        with path.open("a") as file:
            file.write('{"key": "2", "ans')
    with _Log(tmp_path, ["2", "1"]) as log:  # the same rows, in whatever order
        assert log.found == {"1": {"answer": "A"}}
        log.add("2", {"answer": "B"})
    assert _read([path]) == {"1": {"answer": "A"}, "2": {"answer": "B"}}


def test_a_checkpoint_of_version_0_1_is_taken_up(tmp_path):
    old = {"answer": "A", "dynscale_samples": 3, "dynscale_calls": 4, "dynscale_tokens": 5, "dynscale_dollars": 0.0}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"key": "1", "answer": old}) + "\n")
    (answer,) = _read([path]).values()
    assert answer["dynscale_requests"] == 4
    assert {f"dynscale_{unit}" for unit in COSTS} < set(answer)
