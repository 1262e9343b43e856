"""Plan -> files -> answers: the backends, and the bundle that carries their files."""
