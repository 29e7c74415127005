"""Damaged files by the million, for every reader of files that come from outside.

::

    python -m tests.fuzz --count 1000000 --seed 1 --record record.json --keep findings
    python -m tests.fuzz --target gguf,pth --count 20000
    python -m tests.fuzz --replay findings/gguf--v3--m.gguf--1-g0-77 --minimise

A *target* (:mod:`.targets`) is a reader, some folders of small valid files, and the ways to damage one of them. The
first inputs of each target are read under a line tracer (:mod:`.coverage`): those that reach a new step from line to
line join the corpus from which the rest is made. Damage is half blind (:mod:`.damage_bytes`) and half by structure:
extreme numbers in declared fields, cuts at their edges, swapped and repeated records; JSON values of other types
(:mod:`.damage_json`), protobuf fields (:mod:`.damage_protobuf`), archives packed anew with right sums
(:mod:`.damage_zip`).

What must hold of each input is in :mod:`.rules`: it is read, or refused with a ``FormatError`` that names the file or a
``UsageError``; in bounded time and memory; touching nothing but its own folder; leaving no half-written file behind.
"""
