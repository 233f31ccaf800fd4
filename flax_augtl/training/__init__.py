"""Freezing, the optimizer, the pmapped step, the loop, checkpoints and metrics."""
