"""PRILoRA for reading, teaching and use: low-rank adaptation with rising ranks and pruning during training."""
