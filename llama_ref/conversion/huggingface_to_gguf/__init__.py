"""A Hugging Face directory as the GGUF file that today's llama.cpp makes of it, byte for byte.

The converter of 2023 (:mod:`llama_ref.conversion.ggml`) knew LLaMA 1 and wrote seven integers; this one writes what the
whole directory says. From the plan down to the tables; a file imports only what stands below it:

=========================  ==========================================================================================
:mod:`.plan`               checks a conversion, and writes it
:mod:`.metadata`           the keys of the file, in their order
:mod:`.shards`             which tensors go into which of several files
:mod:`.tensors`            names, order, types and values of the tensors
:mod:`.vocabulary`         the tokens: SentencePiece or byte-level BPE
:mod:`.word_rules`         by which rules a byte-level BPE splits a text into words
:mod:`.special_tokens`     which tokens begin, end and fill up a text
:mod:`.chat_templates`     how a conversation is written out
:mod:`.model_card`         ``general.*``: name, authors, license, from README.md, config.json and the directory's name
:mod:`.model_names`        what a name says: base, size, version, tuning
:mod:`.directory`          the JSON files of the directory
=========================  ==========================================================================================

Source: convert_hf_to_gguf.py, conversion/ and gguf-py/ of llama.cpp (October 2026, ggml 0.25.3).
"""
