"""Chinese-LLaMA-Alpaca's recipe: its numbers, its data, and a transformer in handwritten numpy that trains by them.

================  ===================================================================================================
``recipe``        every number of every stage, one file per dialect (``recipes/*.json``)
``plan``          what a stage takes at its real size: parameters, memory of each card, days
``memory``        parameters of a stage, and what the numpy engine holds
``tokens``        texts and records become ids and labels, as the original's scripts made them
``prepare``       the same for whole files, in a stream, into one file of prepared data
``prepared``      that file, and batches of it
``order``         the orders of rows that numpy and torch give
``model``         the transformer: forward, and backward written by hand, each operation beside its derivative
``data``          documents become masked token ids; documents are packed into rows (the demo's way)
``optim``         AdamW, warm-up and cosine, clipping
``loop``          one training run: accumulation, checkpoints that resume bit for bit, the log
``stages``        what each stage starts from, and what is published afterwards
``run_stage``     one stage on your own data, from its inputs to what it publishes
``torch_model``   transformers' model with LoRA pairs, shared out over processes by torch
``torch_engine``  the same training run on torch: one processor, or many machines
``run_torch``     one stage on your own data with it
``export``        ids and numbers for Trainer with DeepSpeed, and for axolotl
``plot``          the loss curve as SVG
``instructions``  instruction data: reading, repairing, joining
``crawl``         instruction data out of a language model
================  ===================================================================================================

The demo model is made with it by ``toolchain.makers``: its corpus (``corpus``) and all stages in one command
(``recipe``).
"""
