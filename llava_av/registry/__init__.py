"""Registry of model versions, and the gates that protect their aliases.

`lineage_collection` collects everything that a model was made from, `versions` registers it in MLflow, and
`registrations` verifies that a version is still the one that S3 recorded. `expectations` are checkable
statements about an evaluation, `baselines` the models that it is compared with, and `gate` the rules for an
alias. `aliases` moves `champion` and `challenger`, and `history` records the moves in S3.
"""
