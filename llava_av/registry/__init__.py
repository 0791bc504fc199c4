"""The registry: model versions, the lineage that each must have, and the gate before `champion`."""
