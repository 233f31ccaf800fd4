"""Training: the freezing plan, the optimizer, the compiled step, the loop, checkpoints, metrics and the log."""
