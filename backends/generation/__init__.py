"""Text generation on the base install: sampling, stops, streaming text, chat templates, stored prefixes, the loop."""
