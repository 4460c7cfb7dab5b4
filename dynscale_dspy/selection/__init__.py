"""Which answer wins: selectors, and how alike two answers are. Pure: no DSPy, no pool, no clock."""

from dynscale_dspy.selection.blends import Average, ByValue
from dynscale_dspy.selection.embeddings import Embeddings
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.judge import Judge
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.rankings import Ranking, SameOrder
from dynscale_dspy.selection.similarity import CharacterF, ElementF1, Equal, EqualOutputs, MeanOver, TokenF1, Words

__all__ = [
    "Average",
    "ByValue",
    "CharacterF",
    "ElementF1",
    "ElementVote",
    "Embeddings",
    "Equal",
    "EqualOutputs",
    "Fieldwise",
    "Judge",
    "MeanOver",
    "Medoid",
    "Numbers",
    "Plurality",
    "Ranking",
    "SameOrder",
    "TokenF1",
    "Words",
]
