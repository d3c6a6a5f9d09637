"""From sources to predictions: naming pictures, running a model, keeping the order."""
