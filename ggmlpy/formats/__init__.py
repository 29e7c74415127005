"""Containers, tensor types, tensor names, file types and eras as tables, and the readers and writers derived from
them."""
