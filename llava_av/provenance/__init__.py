"""Code and environment of a run, which lineage records.

`source_code` identifies the code by digest, git commit and patch; `code_restoring` restores it from commit
and patch into a folder. `environment` describes Python, machine, packages and image, and `locked_packages`
compares installed packages with a lock file and with another environment.
"""
