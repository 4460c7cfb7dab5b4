"""What confidence was worth, in numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.tuning.reliability import auroc, calibration_error, reliability, risk_coverage, threshold_for

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


@given(ANSWERS)
def test_reliability_counts_every_answer_once(answers):
    sure, right = zip(*answers, strict=True)
    parts = reliability(sure, right)
    assert sum(part.count for part in parts) == len(answers)
    assert sum(part.count * part.accuracy for part in parts) == pytest.approx(sum(right))
    assert 0 <= calibration_error(sure, right) <= 1


@given(ANSWERS, st.floats(0, 1))
def test_a_threshold_keeps_its_promise_and_no_lower_one_would(answers, risk):
    sure, right = map(np.array, zip(*answers, strict=True))
    threshold = threshold_for(risk, sure, right)
    lower = [t for t in set(sure) if threshold is None or t < threshold]
    assert all(1 - right[sure >= t].mean() > risk for t in lower)
    if threshold is not None:
        assert 1 - right[sure >= threshold].mean() <= risk + 1e-12
    _, coverage, risks = risk_coverage(sure, right)
    assert coverage[-1] == 1 and risks[-1] == pytest.approx(1 - right.mean())


@given(ANSWERS)
def test_auroc_counts_the_pairs_in_the_right_order(answers):
    sure, right = map(np.array, zip(*answers, strict=True))
    pairs = [(a > b) + (a == b) / 2 for a in sure[right] for b in sure[~right]]
    area = auroc(sure, right)
    assert area == (pytest.approx(np.mean(pairs)) if pairs else None)
    if area is not None:
        assert auroc(sure, ~right) == pytest.approx(1 - area)


@pytest.mark.parametrize("bad", [([], []), ([0.5], [1, 0]), ([1.5], [1])])
def test_nothing_to_measure_is_said(bad):
    with pytest.raises(ValueError, match="confidence"):
        reliability(*bad)


def test_the_page_on_confidence_runs():
    text = (Path(__file__).parents[2] / "docs" / "confidence.md").read_text(encoding="utf-8")
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "confidence.md", "exec"), namespace)
    assert namespace["threshold_for"](0.1, namespace["confidence"], namespace["correct"]) == 0.9  # type: ignore[operator]
