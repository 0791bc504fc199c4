"""Vision towers and the tiling of still images."""
