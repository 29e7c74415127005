"""Chinese-LLaMA-Alpaca's recipe at reading size: a transformer in handwritten numpy, from English base to adapter.

================  ===================================================================================================
``model``         the transformer: forward, and backward written by hand, each operation beside its derivative
``data``          documents become masked token ids; documents are packed into rows
``optim``         AdamW, warm-up and cosine, clipping
``loop``          one training run: accumulation, checkpoints that resume bit for bit, the log
``stages``        what each stage trains, its hyperparameters, and what is published afterwards
``run_stage``     one stage on your own data, from its inputs to what it publishes
``plot``          the loss curve as SVG
``instructions``  instruction data: reading, repairing, joining
``crawl``         instruction data out of a language model
================  ===================================================================================================

The demo model is made with it by ``toolchain.makers``: its corpus (``corpus``) and all stages in one command
(``recipe``).
"""
