"""Compiled kernels straight on the mapped blocks."""
