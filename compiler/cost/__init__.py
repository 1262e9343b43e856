"""Seconds: the only formulas that turn work into time on a machine."""
