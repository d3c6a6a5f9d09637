"""Torch modules: tensors in, tensors out. No files (save `checkpoint`), no words, no printing."""
