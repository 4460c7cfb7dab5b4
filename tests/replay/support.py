"""Recorded samples that the tests of replay make up."""

import numpy as np

from dynscale_dspy.replay import Pool, Question


def simulated(questions=12, samples=24, seed=0, name="sim"):
    generator = np.random.default_rng(seed)
    made = []
    for i in range(questions):
        shares = generator.dirichlet(np.full(5, 0.6))
        answers = [None if k == 4 else "ABCD"[k] for k in generator.choice(5, size=samples, p=shares)]
        made.append(
            Question(str(i), tuple(answers), frozenset("A"), tuple(generator.integers(50, 500, samples).tolist()))
        )
    return Pool(name, tuple(made))


def answers_of(streams, replicate, question):
    return [
        None if code < 0 else code for code in streams._codes[replicate, question, : streams.room[question]].tolist()
    ]
