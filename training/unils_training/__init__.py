"""Training of the models that unils-sdk runs. PyTorch lives only in this package."""

__version__ = "0.1.0"
