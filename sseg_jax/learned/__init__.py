"""What a run has learned of each word: counts, scores, best regions."""
