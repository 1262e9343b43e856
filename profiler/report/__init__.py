"""How results are shown: tables and progress on the terminal."""
