"""Adapters, merging and vocabulary growth for LLaMA: a merge is a stream.

Base tensors flow through one at a time, adapters are applied in order, and the result flows into whichever writer was
asked for. ``lora.vocab`` grows tokenizers, ``lora.adapter`` reads PEFT adapters, ``lora.merge`` merges,
``lora.prompts`` holds the Alpaca prompt.
"""
