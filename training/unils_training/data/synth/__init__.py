"""The simulator: conversations spoken by espeak-ng, and faces moved by rule (docs/corpus.md).

`corpus` makes a corpus (`unils-train synth`) of what the others are: who talks (`people`), about what (`sentences`),
when (`dialogue`), how it sounds (`espeak`, `acoustics`, `prosody`) and looks (`face`, `lips`). `unils_talk_writer` and
`motioncode` write it in the form of UniLS-Talk, `statistics` measures it, `demo_conversation` makes that of the demo.
"""
