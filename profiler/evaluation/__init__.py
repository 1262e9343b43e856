"""The field's own harness, lm-eval, on bundles: the adapter, our own small tasks, and what `evaluate` gives."""
