"""Pocket: a small pre-trained encoder and four small tasks, in the package; a run takes seconds, with no network or GPU."""
