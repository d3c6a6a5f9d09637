"""Training: losses, objectives, the loop and the recipes."""
