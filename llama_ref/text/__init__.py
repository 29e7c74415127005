"""From a model to text: sampling, conversations, what `main` printed, perplexity."""
