"""Models from published weights: imported LLaVA checkpoints and compositions of separate parts."""
