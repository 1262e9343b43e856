"""What a program is: types, symbolic dims, graphs, op definitions, text form, verifier, numpy meaning."""
