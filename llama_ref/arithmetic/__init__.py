"""The arithmetic of the transformer, chosen by name.

| name        | folder      | what it promises                                                                |
|-------------|-------------|---------------------------------------------------------------------------------|
| `reference` | `reference` | plain numpy, the textbook; any tensor type                                      |
| `exact`     | `exact`     | every float as llama.cpp computed it, for an era and a build                    |
| `fast`      | `fast`      | kernels straight on the quantized blocks; the same text for any thread count    |

All three offer the operations of `Backend` under the same names and shapes, so
`llama_ref.arithmetic.transformer.forward` runs on each. A backend that wants to fuse operations overrides
`Backend.forward` — one batch in, logits out, the cache filled as a side effect — and may give `matrix` and `new_cache`
layouts of its own.
"""
