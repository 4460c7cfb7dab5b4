"""What would another budget, or another policy, have given? Recorded samples, replayed.

A pool holds many independent samples of each of its questions. A replay hands them to a policy one at a time, as a
model would have, so that any policy at any budget can be compared on the very same samples, without a model.

It is honest by construction: one shared random order per question and replicate for all policies, at most half of a
pool is ever used (near its end every policy looks alike), a tied vote earns its expected credit, a policy sees only
what it has bought, and differences come with a paired bootstrap over questions and orders.

Where samples are outputs of any type, each with a score, rules of winning are replayed too (:func:`replay_scores`;
call by call, :func:`replay_calls`).
"""

from dynscale_dspy.replay.outputs import Outputs, ScoredPool, load_scored_pool
from dynscale_dspy.replay.pools import Pool, PoolError, Question, load_pool
from dynscale_dspy.replay.scored import Replayed, Score, replay_calls, replay_scores
from dynscale_dspy.replay.table import Record, Replay, Skip, Summary, replay

__all__ = [
    "Outputs",
    "Pool",
    "PoolError",
    "Question",
    "Record",
    "Replay",
    "Replayed",
    "Score",
    "ScoredPool",
    "Skip",
    "Summary",
    "load_pool",
    "load_scored_pool",
    "replay",
    "replay_calls",
    "replay_scores",
]
