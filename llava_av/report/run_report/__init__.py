"""The report of one run: one self-contained HTML page and `summary.json`."""
