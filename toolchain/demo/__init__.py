"""The story on a tiny model, and that model."""
