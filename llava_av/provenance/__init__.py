"""Which code runs, and what it runs in: the facts that lineage records."""
