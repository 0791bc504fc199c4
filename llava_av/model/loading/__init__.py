"""Models from recipes and from folders, with every file checked before it is read."""
