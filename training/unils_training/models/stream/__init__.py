"""The `stream` family: frame-causal; docs/stream-model.md is its contract."""
