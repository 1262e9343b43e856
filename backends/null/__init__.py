"""A backend that builds and runs nothing, for the compiler's own tests."""
