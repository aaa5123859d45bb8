"""Pocket: a small pre-trained encoder and four small tasks in the package; runs take seconds, and no network or GPU."""
