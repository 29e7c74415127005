"""LoRA adapters in llama.cpp's own files: written from PEFT's, read, and applied to an open model.

=====================  ==============================================================================================
:mod:`.gguf_adapter`   GGUF, since 2024: an adapter of any tensors, in the rows of the model's GGUF
:mod:`.ggla`           ``ggml-adapter-model.bin`` of April 2023: attention and feed-forward matrices
:mod:`.reading`        either of them, opened
:mod:`.applying`       an open model with an adapter added
=====================  ==============================================================================================
"""
