"""Corpora: the conversation simulator (`synth`), the reader of corpora on disk (`folder`) and measured statistics (`statistics`)."""
