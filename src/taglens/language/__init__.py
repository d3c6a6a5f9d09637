"""Words: captions to parts, lemmas, word lists. Knows nothing of pictures, tensors or torch."""
