"""Where a budget is kept."""
