"""Which answer wins: selectors, and the votes of one call under a selector. Nothing here knows DSPy or a pool."""
