"""Who is sampled next: tallies, policies, prices and the ledger.

Nothing in this folder knows DSPy, a language model, a thread or a clock. It works on numbers and answer keys, so that
one policy serves a live program, a replayed benchmark and a simulation alike.
"""
