"""What can be told of rows without a cluster. :mod:`tests.distributed.test_ray` has one."""

from __future__ import annotations

import json

from dynscale_dspy.distributed.rows import COSTS, _Log, _read


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
