"""How samples run: all contact with DSPy and the wire."""
