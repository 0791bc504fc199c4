"""Hugging Face folders of models and towers, which are untrusted input.

`folder_checks` checks a folder's files before transformers reads them and reports problems in one line.
`reading` then reads configs, tokenizers and weights without running code from the folder, and `deferred`
reads single rows of weights for engines that shard a model. `adapter_config` validates the config of an
adapter.
"""
