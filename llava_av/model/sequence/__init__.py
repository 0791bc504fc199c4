"""The token sequence: chat template, placeholder runs, interleaving, limits and packing."""
