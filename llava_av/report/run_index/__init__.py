"""Index page of all runs in a bucket."""
