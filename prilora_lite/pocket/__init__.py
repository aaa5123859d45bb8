"""Pocket: a small pre-trained encoder and four small tasks, in the package; a run takes seconds, without a GPU."""
