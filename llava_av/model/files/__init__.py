"""Hugging Face folders of models and towers, which are untrusted input.

`folder_checks` looks at a folder's files before transformers does and says what is wrong in one line.
`reading` then reads configs, tokenizers and weights without running code from the folder.
"""
