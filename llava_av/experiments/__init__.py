"""Experiments: what was expected before a run, beside what was seen."""
