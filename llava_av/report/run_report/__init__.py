"""Report of one run as a self-contained HTML page and `summary.json`."""
