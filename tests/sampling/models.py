"""Language models for strategies over several of them, and what may be known of those."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.samplers import Sampler

MODELS = tuple(Sampler(name, model=name) for name in ("small", "large", "huge"))


def priced(prices: Mapping[str, int], samples: int = 4) -> Learned:
    """What is known of models whose samples cost so many nanodollars."""
    learned = Learned()
    for name, price in prices.items():
        for _ in range(samples):
            learned.costed(name, Cost(samples=1, requests=1, completion_tokens=10, nanodollars=price))
        learned.of(name).samples = samples
    return learned


@st.composite
def known(draw: st.DrawFn, scale: int = 1) -> Learned:
    """Anything that may be known of the models, their prices multiplied."""
    names = [model.name for model in MODELS]
    prices = {name: draw(st.integers(0, 1000)) for name in names if draw(st.booleans())}
    learned = priced({name: price * scale for name, price in prices.items()})
    for name in names:
        record = learned.of(name)
        record.samples = draw(st.integers(0, 9))
        record.blanks = draw(st.integers(0, record.samples))
    for name, agree in draw(st.lists(st.tuples(st.sampled_from(names), st.booleans()), max_size=30)):
        learned.peers.tell_pair(name, agree=agree)
        learned.peers.tell_second(name, repeats=draw(st.booleans()))
    return learned
