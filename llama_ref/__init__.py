"""llama_ref: checkpoints, tokenizer, the transformer, sampling and chat. Builds on :mod:`ggmlpy`."""
