"""Models in memory.

`fresh_model` builds a model and its tokenizer from a recipe. `saved_model` reads one from a folder, as it is
or as the base of a training, and `merged_model` writes an adapter and its base model as one.
"""
