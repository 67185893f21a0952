"""The three stages of training: codec, prior (no audio), dialogue (both tracks on the frozen prior)."""
