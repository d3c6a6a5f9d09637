"""Corpora on disk: reading what people wrote about pictures, and packing it into shards for training."""
