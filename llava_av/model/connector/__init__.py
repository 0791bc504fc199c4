"""Connectors: resamplers and projectors between a tower and the language model."""
