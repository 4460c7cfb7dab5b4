"""Files of JSON objects, one a line."""

from __future__ import annotations

import gzip

import pytest

from dynscale_dspy.replay.lines import PoolError, items_of, objects_in


def test_objects_come_with_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n\n{"id": "b", "x": 2}\n', encoding="utf-8")
    assert list(objects_in(path, ("id",))) == [(f"{path}:1", {"id": 1}), (f"{path}:3", {"id": "b", "x": 2})]


def test_a_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": 1}\n' * 1000)[:-9])
    with pytest.raises(PoolError, match=r"a\.jsonl\.gz"):
        list(objects_in(path, ("id",)))


def test_lists_are_checked_value_by_value():
    assert items_of({"x": [1, 2]}, "x", "here", lambda value: value > 0, "numbers") == [1, 2]
    with pytest.raises(PoolError, match="^here: 'x' must hold numbers, got 0$"):
        items_of({"x": [1, 0]}, "x", "here", lambda value: value > 0, "numbers")
    with pytest.raises(PoolError, match="^here: 3 answers but 1 'x'$"):
        items_of({"x": [1]}, "x", "here", lambda value: True, "numbers", 3)
