"""Which answer wins. Pure: no DSPy, no pool."""
