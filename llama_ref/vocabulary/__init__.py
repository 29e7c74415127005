"""Tokenizers: reading them, encoding and decoding with them, and the prompts that models expect."""
