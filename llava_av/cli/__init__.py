"""The command line: parse, call, print."""

from llava_av.cli.app import main

__all__ = ["main"]
