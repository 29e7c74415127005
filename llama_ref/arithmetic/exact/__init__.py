"""The same bits as llama.cpp of a named era and build."""
