"""What is raised when a checkpoint cannot be used."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says in plain sentences what is wrong, where, and what to do."""
