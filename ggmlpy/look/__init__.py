"""Looking at a file: what it is, what is in it, byte by byte, and what is wrong with it."""
