"""LLaVA-style models that watch video and listen to sound: train, evaluate, ship."""

__version__ = "0.1.0"

__all__ = ["__version__"]
