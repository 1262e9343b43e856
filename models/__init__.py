"""What can be compiled: named architectures, transformers folders, gguf files and torch modules, as `Source`s."""
