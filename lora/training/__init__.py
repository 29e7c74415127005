"""Chinese-LLaMA-Alpaca's recipe at reading size: a transformer in handwritten numpy, from English base to adapter.

==============  =====================================================================================================
``model``       the transformer: forward, and backward written by hand, each operation beside its derivative
``data``        documents become masked token ids; documents are packed into rows
``optim``       AdamW, warm-up and cosine, clipping
``loop``        one training run: accumulation, checkpoints that resume bit for bit, the log
``stages``      what each stage trains, its hyperparameters, and what is published afterwards
``plot``        the loss curve as SVG, or with matplotlib
``corpus``      the demo's bilingual corpus, made from seeded templates
``recipe``      all stages of the demo model in one command
==============  =====================================================================================================
"""
