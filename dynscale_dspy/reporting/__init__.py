"""What happened, from values only: nothing here knows a pool, a module or a plan."""
