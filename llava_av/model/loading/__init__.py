"""Models in memory.

`fresh_model` builds a model and its tokenizer from a recipe. `saved_model` reads one from a folder, as it is
or as the base of a training, and `writing` merges an adapter, converts weights, and writes a whole model.
"""
