"""What is raised when a checkpoint cannot be used."""

from flax_augtl.errors import UserError


class CheckpointError(UserError):
    """A checkpoint cannot be used; the message says in plain sentences what is wrong, where, and what to do."""
