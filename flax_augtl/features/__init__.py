"""Kept activations of the frozen layers."""
