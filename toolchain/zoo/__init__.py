"""Tiny files of every kind that the toolchain knows, whole and broken, each with its story. See :mod:`.make`."""
