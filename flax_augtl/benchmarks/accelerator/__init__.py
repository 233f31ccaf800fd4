"""Measure everything that matters on an accelerator in one command; see `__main__`."""
