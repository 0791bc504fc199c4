"""Evaluation: every question asked with and without each stream, judged, and summed up with intervals."""
