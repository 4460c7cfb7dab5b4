"""How samples are drawn: the plan of a call, its strategies and chains, and the two ways to run it."""
