"""Audio towers and the front ends that feed them."""
