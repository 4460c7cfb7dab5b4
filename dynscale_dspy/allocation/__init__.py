"""Which call is sampled next: evidence, tallies, policies, trust, costs and prices.

Nothing in this folder knows DSPy, a language model, a thread or a clock. It works on numbers and answer keys, so that
one policy serves a live program, a replayed benchmark and a simulation alike.
"""
