"""Python blocks of the documentation run, and its links within the repository lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import dspy
import pytest

from dynscale_dspy.cli import main
from dynscale_dspy.selection.text import LAYERS, key_of_text
from dynscale_dspy.testing import FAULTS
from tests.support import ScriptedModel, cycle, needs_engines

ROOT = Path(__file__).parent.parent
# The blocks have deadlines of their own.
pytestmark = [pytest.mark.usefixtures("litellm_is_warm"), pytest.mark.timeout(120)]
TEXT = (ROOT / "docs" / "budgets.md").read_text(encoding="utf-8")
PROMISES = (ROOT / "docs" / "budgets-promises.md").read_text(encoding="utf-8")


def test_python_blocks_run_in_order(capsys):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) >= 2
    namespace: dict[str, object] = {"__name__": "budgets"}
    for block in blocks:
        exec(compile(block, "budgets.md", "exec"), namespace)
    first, second = capsys.readouterr().out.strip().splitlines()
    assert first.startswith("BudgetPool(0 of 1000 samples, 0 of 3000 requests, 0 of 2000000 tokens, 0 of 5 dollars")
    scope, pool = map(int, second.split())
    assert 3 <= scope == pool <= 11  # at most 8 and 3


PROMISED = {
    "**Never over.**": {
        "budget/test_pool.py": ["PoolMachine"],
        "budget/test_accounts.py": ["LedgerMachine"],
        "budget/test_leases.py": ["test_threads_that_charge_one_lease_never_have_it_hold_less_than_is_charged"],
        "budget/stores/test_sqlite.py": ["test_processes_that_share_a_file_cannot_pass_its_cap"],
        "distributed/test_lease_book.py": ["Leasing"],
        "transport/test_models_pipelines.py": ["test_no_cap_is_passed_and_nothing_stays_held"],
        "transport/test_long_prompts.py": ["test_no_cap_is_passed_whatever_the_size_of_requests"],
    },
    "**Every request is seen**": {
        "execution/test_listener.py": ["test_the_books_hold_every_request_and_no_cap_is_passed"],
        "budget/test_throttle.py": ["test_a_pool_keeps_to_its_concurrency"],
    },
    "**What a provider reports is booked**": {
        "execution/test_request_costs.py": [
            "test_whatever_is_reported_the_charge_is_that_or_within_the_bound",
            "test_shares_sum_to_the_whole_and_pass_their_bounds_only_together",
            "test_no_report_makes_it_raise",
        ],
    },
    "**Nothing leaks.**": {
        "execution/test_interruptions.py": ["test_an_interrupt_at_any_line_leaves_nothing_behind"],
        "execution/test_books.py": ["test_whenever_a_call_is_cancelled_nothing_stays_reserved"],
        "budget/test_admission.py": ["test_an_interrupt_inside_any_step_lets_go_of_the_lock_and_passes_no_cap"],
    },
    "**Every call answers**": {
        "budget/stores/test_backlog.py": ["BacklogMachine"],
        "test_hostile_values.py": ["test_an_odd_answer_costs_its_vote_at_most"],
        "execution/test_drivers.py": ["test_a_deadline_ends_a_call_whose_program_goes_on"],
    },
    "**Files are exact**": {
        "budget/stores/test_sqlite.py": ["test_a_process_ended_at_any_instant_leaves_exact_books"],
        "budget/test_pool.py": [
            "test_a_child_forked_at_any_moment_answers",
            "test_no_period_has_more_than_its_cap_however_the_clocks_step",
        ],
        "budget/test_clocks.py": ["test_a_deadline_comes_when_it_was_to_come_though_the_systems_clock_is_set"],
    },
}
"""What the page promises, each with the properties, state machines and brute-force tests that hold it."""


def test_every_promise_has_its_tests():
    promises = PROMISES[PROMISES.index("promises:") : PROMISES.index("cannot promise:")]
    assert re.findall(r"^- (\*\*.*?\*\*)", promises, flags=re.MULTILINE) == list(PROMISED)
    for tests in PROMISED.values():
        for file, names in tests.items():
            code = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert all(re.search(rf"^(?:async )?(?:def|class) {name}\b", code, flags=re.MULTILINE) for name in names), (
                file
            )


def test_every_fault_of_the_fake_server_is_explained():
    words = {
        "429": "429,",
        "429_retry_after": "Retry-After",
        "500": "500;",
        "503": "503",
        "context_length": "prompt too long",
        "hang": "hang",
        "stall": "stall",
        "reset": "reset",
        "truncated_body": "truncated body",
        "malformed_json": "malformed JSON",
        "empty_choices": "no choices",
        "null_content": "null content",
        "empty_content": "empty or null",
        "refusal": "refusal",
        "content_filter": "content filter",
        "prose": "without the fields asked for",
        "length": "cut off",
        "slow": "slow first byte",
        "extra_choice": "one too many",
        "no_usage": "usage missing",
        "absurd_usage": "absurd",
        "usage_of_one": "usage of one choice",
    }
    assert set(words) == set(FAULTS)
    for word in words.values():
        assert word in PROMISES


@pytest.mark.parametrize(
    ("page", "least"),
    [("index", 1), ("selection", 2), ("selection-by-meaning", 2), ("models", 2), ("integrated-sampling", 1)],
)
def test_blocks_print_what_the_page_shows(page, least, capsys):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": page}
    printed = []
    for kind, block in re.findall(r"```(python|text)\n(.*?)```", text, flags=re.DOTALL):
        if kind == "python":
            exec(compile(block, f"{page}.md", "exec", dont_inherit=True), namespace)
            printed.append(capsys.readouterr().out)
        else:
            assert printed[-1] == block
    assert sum(bool(each) for each in printed) == text.count("```text") >= least


@pytest.mark.parametrize("page", ["recipes", "own-parts", "what-votes"])
def test_each_block_stands_for_itself(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    with dspy.context(lm=ScriptedModel(cycle("408")).lm()):
        for block in blocks:
            exec(compile(block, f"{page}.md", "exec"), {"__name__": page, "dspy": dspy})


def test_samples_share_a_request_as_the_page_says(capsys):
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    block, printed = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", text, flags=re.DOTALL)[0]
    exec(compile(block, "speed.md", "exec"), {})
    assert capsys.readouterr().out == printed


@needs_engines
def test_a_client_with_more_connections_is_made_as_the_page_says():
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    _, second, _ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    namespace: dict[str, object] = {}
    exec(compile(second, "speed.md", "exec"), namespace)
    assert namespace["lm"].model == "openai-chat:qwen" and namespace["config"].max_connections == 1000


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    # Those between pages of the documentation are checked when it is built.
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert not [link for link in links if not (ROOT / link).exists()]


def test_documented_files_exist():
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
    named = set(re.findall(r"`((?:examples|docs|notebooks|tests)/[\w/]+\.\w+)`", text))
    assert len(named) >= 5
    assert not [name for name in named if not (ROOT / name).exists()]


def test_tables_are_as_the_benchmarks_json_has_them(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_build")
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "_build" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    pages = {path: path.read_text(encoding="utf-8") for path in tables.PAGES}
    marks = [name for text in pages.values() for name in re.findall(r"<!-- table: (.*?) -->", text)]
    assert set(tables.TABLES) <= set(marks)
    assert not [path.name for path, text in pages.items() if tables.remade(text) != text]


def test_servers_on_the_page_are_those_of_the_example():
    page = (ROOT / "docs" / "servers.md").read_text(encoding="utf-8")
    example = (ROOT / "examples" / "servers.py").read_text(encoding="utf-8")
    models = re.findall(r'\| `"([^"]+)"', page)
    assert len(models) == 6
    assert all(f'"{model}"' in example for model in models)


@pytest.mark.timeout(180)
def test_the_page_of_checks_shows_what_it_prints(capsys, tmp_path, monkeypatch):
    """Word for word; figures may differ a little between machines."""
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "check"}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "check.md", "exec"), namespace)
    table, replayed = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    printed = [capsys.readouterr().out]
    (command,) = re.findall(r"dynscale (replay .*)", page)
    assert main(command.split()) == 0
    printed.append(capsys.readouterr().out)
    for found, shown in zip(printed, (table, replayed), strict=True):
        assert _words(found) == _words(shown)


def test_the_page_of_policies_shows_what_replay_prints(capsys, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "allocation.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "allocation"}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "allocation.md", "exec"), namespace)
    (command,) = re.findall(r"dynscale (replay .*)", page)
    (shown,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    capsys.readouterr()
    assert main(command.split()) == 0
    assert capsys.readouterr().out == shown


def _words(text: str) -> list[str]:
    """The words of a text, all numbers alike."""
    return re.sub(r"[+-]?[\d.,]*\d", "#", text).split()


SAME_ANSWER = (ROOT / "docs" / "same-answer.md").read_text(encoding="utf-8")


def test_the_page_of_same_answers_shows_what_it_prints(capsys):
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", SAME_ANSWER, flags=re.DOTALL):
        exec(compile(block, "same-answer.md", "exec"), namespace)
    assert capsys.readouterr().out == re.findall(r"```text\n(.*?)```", SAME_ANSWER, flags=re.DOTALL)[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_page_of_same_answers_is_true_of_each_layer(layer):
    row = next(line for line in SAME_ANSWER.splitlines() if line.startswith(f"| `{layer}` |"))
    _, _, agree, differ = row.strip("| ").split(" | ")
    for group in agree.split("; "):
        assert len({key_of_text(text) for text in re.findall("`([^`]+)`", group)}) == 1, group
    for group in differ.split("; "):
        texts = re.findall("`([^`]+)`", group)
        assert len({key_of_text(text) for text in texts}) == len(texts) == 2, group
