"""Checkpoints to GGML files, and between the Meta and Hugging Face layouts."""
