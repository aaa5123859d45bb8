"""Pocket: a small pre-trained encoder and four small tasks, inside the package; no network, no GPU, seconds a run."""
