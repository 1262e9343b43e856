"""From a user's model to a Program: torch modules through torch.export, transformers through its interfaces."""
