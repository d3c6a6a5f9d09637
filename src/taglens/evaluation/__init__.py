"""Measuring a tagger: label files, metrics, thresholds. No torch; what scores the pictures is passed in."""
