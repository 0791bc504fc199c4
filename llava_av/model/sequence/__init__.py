"""Token sequence of a sample: how a conversation and its clip become tokens.

`expansion` renders a conversation through the tokenizer's `chat_template` and replaces each media placeholder
by the tokens of its medium, which `clip_tokens` writes. `interleaving` orders the video and audio tokens of a
clip by time, and `token_counts` knows their numbers from sizes alone, before anything is decoded or a tower
runs. `truncation` shortens a clip whose sample is too long, and `packing` puts several samples into one row.
`tokenizer` trains the tokenizer of a fresh model. A chat template is untrusted code: `template_rendering`
runs it in a limited process, `template_worker`.
"""
