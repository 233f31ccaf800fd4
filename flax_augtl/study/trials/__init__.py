"""The trials of a study: how they are batched, trained, timed and resumed."""
