"""The processor: its features, the vector language for Numba, and what compiling means for the person who waits."""
