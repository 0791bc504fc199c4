"""Inference with a trained model.

`generation` turns encoded prompts into replies; chat and evaluation share it. `model_source` finds the folder
of a model by path, `s3://…` or `models:/…`, and `devices` chooses the device it runs on. `chat_media`
describes the files that a conversation is about, and `chat` holds the conversation that `llava-av chat` runs.
"""
