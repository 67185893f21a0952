"""Stages of the `published` family: UniLS as released."""
