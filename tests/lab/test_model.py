import numpy as np
import pytest

from dynscale_dspy.lab.model import Cache, Llama
from dynscale_dspy.lab.tokenizer import ChatTokenizer
from tests.lab.support import ATTEMPTS, chat, encode, log_softmax

# A prompt, a reply, and the log-probability of each token of the reply according to transformers in float64.
GOLDEN = {
    "a reply with a wrong step": (
        chat(),
        "[[ ## reasoning ## ]]\n41+27=69;69-13=56\n\n[[ ## answer ## ]]\n55",
        "0 0 0 -.0001 -.0001 0 -.0002 0 -.0045 -16.7952 0 0 0 -.0001 0 -.0010 0 -.0187 -.0006 0 0 0 -15.9493",
    ),
    "a reply that looks at earlier attempts": (
        chat(earlier_attempts=ATTEMPTS),
        "[[ ## reasoning ## ]]\n1:55+13=68;68-27=41/41 ok\n\n[[ ## answer ## ]]\n55",
        "0 0 0 0 0 0 -.0008 -.0002 -.0002 -.0005 -.0024 -.0002 -.0001 0 0 -.0558 -.0001 -.0008 -.0003 -.0474 -.0062 "
        "0 0 -.0004 -.0304 -.0001 0 -.0004 -.0001",
    ),
    "text it was not trained on": (
        [{"role": "user", "content": "Grüße, 世界 🙂"}],
        "Hallo, Welt!",
        "-21.2929 -23.6340 -24.8437 -24.4586 -23.7671 -12.7130 -20.6892 -23.5803 -24.4932 -24.8428 -24.6558",
    ),
}


def decode_one_by_one(model: Llama, cache: Cache, row: int, tokens: list[int]) -> np.ndarray:
    return np.stack([model.forward(cache, [row], [[token]])[0] for token in tokens])


@pytest.mark.parametrize("case", GOLDEN)
def test_the_log_probabilities_are_those_of_transformers(model: Llama, tokenizer: ChatTokenizer, case: str) -> None:
    messages, text, numbers = GOLDEN[case]
    reply = tokenizer.encode(text)
    cache = Cache(model.config, 1)
    first = model.forward(cache, [0], [encode(tokenizer, messages)])
    logits = np.concatenate([first, decode_one_by_one(model, cache, 0, reply[:-1])])
    found = log_softmax(logits)[np.arange(len(reply)), reply]
    np.testing.assert_allclose(found, [float(number) for number in numbers.split()], atol=3e-4)


def test_decoding_through_the_cache_equals_reading_everything_at_once(model: Llama) -> None:
    tokens = np.random.default_rng(0).integers(0, 256, 300).tolist()
    cache = Cache(model.config, 1)
    model.forward(cache, [0], [tokens[:60]])
    step_by_step = decode_one_by_one(model, cache, 0, tokens[60:])  # crosses the windows of 64, 128 and 256 tokens
    assert cache.lengths[0] == 300
    for length in (61, 64, 65, 128, 129, 200, 256, 257, 300):
        at_once = model.forward(Cache(model.config, 1), [0], [tokens[:length]])
        np.testing.assert_allclose(log_softmax(step_by_step[length - 61]), log_softmax(at_once[0]), atol=2e-4)


def test_a_sequence_does_not_feel_its_neighbours(model: Llama) -> None:
    """Bit for bit where each product's rows are independent, which holds for OpenBLAS; elsewhere up to rounding."""
    random = np.random.default_rng(1)
    prompts = [random.integers(0, 256, length).tolist() for length in (5, 23, 24, 24, 60, 70, 130, 1, 23, 24, 300)]
    follow_up = random.integers(0, 256, 12).tolist()

    alone = []
    for prompt in prompts:
        cache = Cache(model.config, 1)
        logits = [model.forward(cache, [0], [prompt]), decode_one_by_one(model, cache, 0, follow_up)]
        alone.append(np.concatenate(logits))

    order = random.permutation(len(prompts)).tolist()  # row r of the cache holds prompt order[r]
    cache = Cache(model.config, len(prompts))
    rows = range(len(prompts))
    together = [model.forward(cache, rows, [prompts[i] for i in order])]
    together += [model.forward(cache, rows, [[token]] * len(prompts)) for token in follow_up]
    for row, i in enumerate(order):
        np.testing.assert_allclose(np.stack([step[row] for step in together]), alone[i], rtol=0, atol=1e-4)


def test_prompts_and_single_tokens_can_share_a_step(model: Llama) -> None:
    random = np.random.default_rng(2)
    old, new = random.integers(0, 256, 40).tolist(), random.integers(0, 256, 33).tolist()
    cache = Cache(model.config, 5)
    model.forward(cache, [3], [old])
    mixed = model.forward(cache, [3, 1], [[7], new])
    expected = [model.forward(Cache(model.config, 1), [0], [tokens])[0] for tokens in ([*old, 7], new)]
    np.testing.assert_allclose(mixed, expected, atol=2e-4)
    assert cache.lengths.tolist() == [0, 33, 0, 41, 0]


def test_a_row_can_be_copied_and_reused(model: Llama) -> None:
    cache = Cache(model.config, 2)
    model.forward(cache, [0], [[1] * 90])
    model.forward(cache, [1], [[2] * 200])
    cache.copy(0, 1)
    np.testing.assert_array_equal(*model.forward(cache, [0, 1], [[5], [5]]))
    cache.clear(1)
    again = model.forward(cache, [1], [[3, 4]])
    np.testing.assert_allclose(again, model.forward(Cache(model.config, 1), [0], [[3, 4]]), atol=1e-5)
