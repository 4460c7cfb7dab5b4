from dynscale_dspy.replay import replay
from tests.replay.support import simulated


def test_a_result_is_told_in_a_table_of_each_group_and_what_was_skipped():
    result = replay(simulated(name="lab__a__set"), ["uniform", "knowledge_gradient"], budgets=(4, 16), replicates=2)
    title, head, *rows = str(result).splitlines()
    assert title == "set: 1 pool, accuracy in % by average budget a query"
    assert head.split() == ["4", "area", "reach@u32", "vs", "uniform", "at", "4"]
    uniform, ours = (row.split() for row in rows[:2])
    accuracy = 100 * result.accuracy("uniform", 4)
    assert uniform == ["uniform", f"{accuracy:.1f}", "–", "never", "+0.00", "±", "0.00"]
    assert ours[0] == "knowledge_gradient"
    assert rows[-1] == "skipped: lab__a__set: budget 16: above half of the pool, 12 samples a question"
