"""Questions to a trained model about files of one's own."""
