"""What is known of a language model's costs before it was asked."""

from __future__ import annotations

import dspy

from dynscale_dspy import Cost, Price
from dynscale_dspy.allocation.costs import Tariff
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.execution.tariffs import put_at_prices, tariff_of
from dynscale_dspy.sampling.samplers import ALONE, Sampler


def test_a_tariff_is_the_price_of_a_token_and_the_bound_on_what_is_written() -> None:
    lm = dspy.LM("openai/mine", max_tokens=80)
    assert tariff_of(lm, {"openai/mine": Price(1, 2)}) == Tariff(1000, 2000, 80)
    assert tariff_of(lm, {}) == Tariff(most=80)
    own = dspy.LM("openai/mine", input_cost_per_token=1e-6, output_cost_per_token=4e-6)
    assert tariff_of(own, {}) == Tariff(1000, 4000)


def test_records_of_models_get_theirs_and_others_none() -> None:
    learned = Learned()
    put_at_prices(learned, [ALONE, Sampler("mine", lm=dspy.LM("openai/mine"), model="mine")], {})
    assert learned.records["mine"].tariff == Tariff() and ALONE.name not in learned.records


def test_a_model_not_seen_yet_is_put_at_its_own_prices() -> None:
    learned = Learned()
    dear = Sampler("dear", lm=dspy.LM("openai/dear", max_tokens=80), model="dear")
    put_at_prices(learned, [dear], {"openai/dear": Price(10, 20)})
    assert learned.need_of("dear") is None  # nothing is known of the program
    cheap = Cost(requests=1, prompt_tokens=100, completion_tokens=50, nanodollars=200)
    learned.needed("cheap", cheap, index=0)
    learned.costed("cheap", cheap + Cost(samples=1))
    need = Cost(requests=1, prompt_tokens=100, completion_tokens=80, nanodollars=100 * 10_000 + 80 * 20_000)
    assert learned.need_of("dear") == learned.need_of("dear", first=True) == need
    assert learned.need_of("cheap") == learned.need_of("other") == cheap
    assert learned.mean_of("dear", "nanodollars") == 100 * 10_000 + 50 * 20_000
    assert learned.mean_of("dear", "tokens") == learned.mean_of("cheap", "tokens") == 150
    learned.needed("dear", cheap, index=3)
    assert learned.need_of("dear") == cheap  # once it is known, that is what counts


def test_of_several_requests_only_the_last_counts_at_its_bound() -> None:
    other = Cost(requests=3, prompt_tokens=300, completion_tokens=60, nanodollars=7)
    assert Tariff(1, 1, most=100).need(other) == Cost(
        requests=3, prompt_tokens=300, completion_tokens=140, nanodollars=440
    )
    assert Tariff(most=100).need(other).nanodollars == 7  # of a price that nobody knows


def test_samples_are_counted_in_those_of_the_first_model_that_costs_something() -> None:
    learned = Learned()
    models = [Sampler(name, lm=dspy.LM(f"openai/{name}"), model=name) for name in ("local", "cheap", "dear")]
    put_at_prices(learned, models, {"openai/local": Price(0, 0), "openai/dear": Price(1, 2)})
    assert [learned.of(model.name).is_usual for model in models] == [False, True, False]
    assert [learned.is_free(model.name) for model in models] == [True, False, False]
    assert not learned.is_free(ALONE.name)
