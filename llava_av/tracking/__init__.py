"""Reaching MLflow, and getting a run's metrics there without ever depending on it."""
