"""Backend `tensorrt`: the graphs of a bundle as TensorRT engines, built once for each card and kept.

`compiler` builds, `engine_cache` keeps, `runner` runs; `libraries` finds TensorRT, cuda-python and the card. Nothing of
NVIDIA's is imported before a bundle is compiled or loaded. This project's own machines have no such card: the layer
that calls TensorRT and CUDA is kept thin, and docs/tensorrt.md says what has been checked and what has not been run.
"""
