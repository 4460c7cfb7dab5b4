"""Tools that measure settings: calibration, estimates for other budgets, and how far confidence can be trusted."""
