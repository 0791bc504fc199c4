"""Shared runtime of all steps.

A step runs in a `Workspace` (`workspace.py`), which also turns the error of a step's process into one line.
`job_target.py` decides where the step's job runs and runs it there, and `retry.py` repeats steps after
transient errors on a cluster. `failures.py` stores why a step failed for the pipeline's last step, `actor.py`
identifies who made a change, `author.py` the author of a dataset commit, and `command_hints.py` writes
commands that a user can copy. `target_folder.py` writes a user's folder as a whole or not at all.
"""
