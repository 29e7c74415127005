"""Floats to blocks, as each era of llama.cpp did it: one module per family, and a whole file at a time."""
