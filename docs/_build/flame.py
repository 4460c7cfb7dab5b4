"""What a sample's CPU goes into, to be looked at from outside:

    py-spy record -r 500 -d 14 -f raw -o NOW -- python docs/_build/flame.py
    python docs/_build/flame.py --draw docs/images/overhead.png BEFORE NOW

Questions of eight samples each, one after another, asked as tasks through DSPy's native client of a server in a process
of its own. It ends by itself and says what a sample took. Drawn is what runs inside a sample, by whose code it is.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SECONDS = 12
OWNERS = {"dynscale_dspy/": "this library", "dspy/": "DSPy", "pydantic": "pydantic", "": "Python and HTTP"}
COLOURS = {"this library": "#c2410c", "DSPy": "#9bb8d3", "pydantic": "#b7c9a8", "Python and HTTP": "#d4d4d4"}
INSIDE = "_arun_group "
DEEPEST = 34


def _serve(pipe: Any) -> None:
    from dynscale_dspy.testing import FakeServer, questions

    with FakeServer(questions(8, seed=1), median_latency=0.02, sigma=0.0) as server:
        pipe.send(server.url)
        pipe.recv()


def main() -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there,), daemon=True)
    server.start()
    address = here.recv()

    import dspy

    from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform
    from dynscale_dspy.testing import questions

    lm = dspy.LM("openai/fake", api_base=address, api_key="local", engine="auto", cache=False, num_retries=0)
    pool = BudgetPool(per_call=8, policy=Uniform())
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), pool, sampling=Parallel(), max_choices=1)

    async def ask() -> int:
        samples, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            for question in questions(8, seed=1):
                await qa.acall(question=question.text)
                samples += 8
        return samples

    with dspy.context(lm=lm):
        cpu = time.process_time()
        samples = asyncio.run(ask())
        cpu = time.process_time() - cpu
    print(f"{samples:,} samples, {1000 * cpu / samples:.2f} ms of CPU each")
    here.send("stop")
    server.join(10)


def draw(out: Path, profiles: Sequence[Path]) -> None:
    """One flame graph a profile: width is time, a frame lies on its caller, colour tells whose code it is."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    figure, axes = plt.subplots(len(profiles), 1, figsize=(11, 4.2 * len(profiles)), squeeze=False)
    for axis, path in zip(axes[:, 0], profiles, strict=True):
        stacks: Counter[tuple[str, ...]] = Counter()
        for line in path.read_text(encoding="utf-8").splitlines():
            frames, _, count = line.rpartition(" ")
            names = frames.split(";")
            begin = next((i for i, name in enumerate(names) if name.startswith(INSIDE)), None)
            if begin is not None:
                stacks[tuple(names[begin:])] += int(count)
        whole = sum(stacks.values())
        leaves = Counter({owner: 0 for owner in COLOURS})
        for stack, count in stacks.items():
            leaves[_owner(stack[-1])] += count
        _lay(axis, stacks, 0.0, 0, whole)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, DEEPEST)
        axis.set_axis_off()
        shares = ", ".join(f"{owner} {count / whole:.0%}" for owner, count in leaves.most_common())
        axis.set_title(f"{path.stem.replace('_', ' ')}: running itself {shares}", fontsize=9)
    handles = [Patch(color=colour) for colour in COLOURS.values()]
    figure.legend(handles, list(COLOURS), loc="lower center", ncols=len(COLOURS), frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(out, dpi=110)


def _lay(axis: Any, stacks: Counter[tuple[str, ...]], left: float, depth: int, whole: int) -> None:
    below: dict[str, Counter[tuple[str, ...]]] = {}
    for stack, count in stacks.items():
        if len(stack) > depth:
            below.setdefault(stack[depth].split(" ")[0], Counter())[stack] += count
    for name, inner in sorted(below.items()):
        width = sum(inner.values()) / whole
        if width >= 0.002 and depth < DEEPEST:
            colour = COLOURS[_owner(next(iter(inner))[depth])]
            axis.barh(depth, width, left=left, height=0.92, align="edge", color=colour, edgecolor="white", linewidth=0.3)
            if width > 0.007 * len(name):
                axis.text(left + 0.002, depth + 0.2, name, fontsize=5, clip_on=True)
            _lay(axis, inner, left, depth + 1, whole)
        left += width


def _owner(frame: str) -> str:
    return next(owner for part, owner in OWNERS.items() if f"({part}" in frame or not part)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", nargs="+", type=Path, metavar="FILE", help="the picture, and one profile or more")
    options = parser.parse_args()
    if options.draw:
        draw(options.draw[0], options.draw[1:])
    else:
        main()
