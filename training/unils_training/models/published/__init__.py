"""UniLS as released: 100-frame windows, a multi-scale codec, wav2vec2 features; docs/published-model.md."""
