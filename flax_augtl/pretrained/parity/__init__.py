"""Comparison of every block with a reference implementation."""
