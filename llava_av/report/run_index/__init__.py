"""The index page over all runs of a bucket."""
