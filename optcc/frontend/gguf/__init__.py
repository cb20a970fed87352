"""GGUF files, turned once into a transformers directory in the cache."""
