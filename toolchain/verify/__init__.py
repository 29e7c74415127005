"""Outputs held against their sources across all steps; each hands its expectation to ggmlpy's judge."""
