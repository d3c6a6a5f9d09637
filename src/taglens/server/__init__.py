"""What answers over HTTP: today a simulated annotator, for trying annotation without a model."""
