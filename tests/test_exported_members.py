from __future__ import annotations

import subprocess
import sys

import dynscale_dspy
from tests.support import HAS_ENGINES

PUBLIC = {
    "BestOf",
    "BudgetExhausted",
    "BudgetPool",
    "BudgetWarning",
    "ByPrice",
    "Calibrate",
    "Cost",
    "DynScaling",
    "Escalate",
    "Integrated",
    "KnowledgeGradient",
    "LowConfidence",
    "Parallel",
    "Policy",
    "Price",
    "SamplingStatus",
    "Sequential",
    "StorageError",
    "Strategy",
    "UCB",
    "UnboundedCost",
    "Uniform",
    "explain",
    "unscaled",
    "unwrap",
    "wrap",
}


def test_the_public_surface():
    assert set(dynscale_dspy.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(dynscale_dspy, name).__doc__


def test_importing_is_light():
    heavy = ["litellm", "scipy.special", "scipy.stats", "matplotlib", "starlette", "uvicorn", "tokenizers", "rich"]
    heavy += ["ray"]
    ours = "import dynscale_dspy.lab, dynscale_dspy.distributed"
    pool = "import dynscale_dspy.budget.pool; random = 'numpy.random' in sys.modules"
    found = "print([m for m in heavy if m in sys.modules and m not in theirs], random)"
    code = f"import sys, dspy; theirs = set(sys.modules); heavy = {heavy}; {pool}; {ours}; {found}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "[] True\n"  # pools need the latter, and are to import nothing while they are locked


def test_calls_do_not_wait_for_scipy():
    code = """
import sys, dspy
if sys.argv[1:]:
    sys.modules["litellm"] = None  # samples that could share a request do not: it fails at once, and would take seconds
from dynscale_dspy import DynScaling
from dynscale_dspy.testing import FakeServer
with FakeServer(6, median_latency=0.001) as server, dspy.context(lm=server.lm()):
    qa = DynScaling(dspy.Predict("question -> answer"), budget=4)
    qa(question=server.questions[0].text)
    qa.batch([{"question": question.text} for question in server.questions], disable_progress_bar=True)
print([name for name in sys.modules if name.startswith("scipy")])
"""
    without = ["without LiteLLM"] if HAS_ENGINES else []
    command = [sys.executable, "-c", code, *without]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_allocation_imports_nothing_of_dspy():
    code = """
import sys, types
blocked = types.ModuleType("dspy")
sys.modules["dspy"] = None  # importing it raises
package = types.ModuleType("dynscale_dspy")
package.__path__ = [sys.argv[1]]
sys.modules["dynscale_dspy"] = package
import importlib, pkgutil
import dynscale_dspy.allocation as allocation
for module in pkgutil.walk_packages(allocation.__path__, "dynscale_dspy.allocation."):
    importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code, dynscale_dspy.__path__[0]], check=True)


def test_names_are_loaded_when_they_are_asked_for():
    code = """
import sys
import dspy, dynscale_dspy
assert "dynscale_dspy.module" not in sys.modules
assert set(dynscale_dspy.__all__) <= set(dir(dynscale_dspy))
from dynscale_dspy import DynScaling, wrap
assert callable(wrap) and dynscale_dspy.DynScaling is DynScaling
try:
    dynscale_dspy.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_star_brings_all_names():
    names: dict[str, object] = {}
    exec("from dynscale_dspy import *", names)
    assert set(dynscale_dspy.__all__) <= set(names)
