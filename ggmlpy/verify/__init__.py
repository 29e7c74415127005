"""The judge: two models compared, and an output held against what its source should give."""
