"""What may be spent: the pool and its parts."""
