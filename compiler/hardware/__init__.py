"""Machines: what this one is, and (later) the catalog of chips and systems."""
