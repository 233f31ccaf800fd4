"""The error of a checkpoint that cannot be used."""

from flax_augtl.errors import UserError


class CheckpointError(UserError):
    """A checkpoint cannot be used; the message says what is wrong, where, and what to do."""
