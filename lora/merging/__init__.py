"""A merge is a stream: adapters, checks, the arithmetic, and where the result goes."""
