"""The models, each in a parallel form for training and a streaming form that is tested equal to it."""
