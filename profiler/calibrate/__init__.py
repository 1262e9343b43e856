"""Measures a machine: its ceilings, and a backend's kernels against them."""
