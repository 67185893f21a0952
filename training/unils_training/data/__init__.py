"""Corpora: reading either form (`dataset`), checking, caches and clips for training, and the simulator (`synth`)."""
