"""What happened, told from values only."""
