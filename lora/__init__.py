"""Adapters, merging and vocabulary growth for LLaMA: a merge is a stream.

Base tensors flow through one at a time, adapters are applied in order, and the result flows into whichever writer was
asked for. ``lora.vocabulary`` grows tokenizers, ``lora.merging.adapter`` reads PEFT adapters, ``lora.merging.merge``
merges, ``llama_ref.vocabulary.prompts`` holds the Alpaca prompt.
"""
