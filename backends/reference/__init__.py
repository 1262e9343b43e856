"""The numpy backend: the meaning of every op, always there."""
