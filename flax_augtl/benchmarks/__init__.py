"""Benchmarks: `python -m flax_augtl.benchmarks.NAME`. Nothing else imports them."""
