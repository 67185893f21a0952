"""Corpora: the simulator (`synth`), the reader (`folder`), measured statistics (`statistics`), clips for training."""
