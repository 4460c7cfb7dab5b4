"""Measuring settings: calibration, what another budget would buy, what confidence is worth."""
