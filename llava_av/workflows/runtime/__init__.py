"""Shared parts of the steps: workspace, job targets, retries, the actor, failures and hints for users."""
