"""Connectors: what stands between the towers and the language model.

`resamplers` turn the patches of a frame into its tokens, `audio_downsamplers` turn audio features into fewer
tokens, and both may use the `query_transformer` of the Q-Former. `projectors` map the result to the language
model's width. `factory` builds a connector by the name that a recipe or config gives it, and `from_config`
builds those of a model.
"""
