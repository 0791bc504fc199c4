"""Index page of all runs in a bucket, which `index_page` renders."""
