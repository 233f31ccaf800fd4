"""Errors about data, as sentences that a user can act on."""

from collections.abc import Iterable

from flax_augtl.config.nearest import did_you_mean
from flax_augtl.errors import UserError


class DataError(UserError):
    """The data or their settings are invalid; the message says what is wrong, where, and what to do."""


class UnreadableImage(DataError):
    """An image cannot be decoded.

    Attributes:
      path: where the image is, as text.
      reason: why, as a phrase without a period.
    """

    def __init__(self, path: str, reason: str):
        """Make the message from the values of the attributes."""
        super().__init__(
            f"The image {path} cannot be read: {reason}. Repair or remove it, or skip such images with "
            "--config.data.on_bad_image=skip."
        )
        self.path = path
        self.reason = reason

    def __reduce__(self):  # An exception crosses from a worker process by pickle, which calls cls(*args).
        """Pickle with the arguments of `__init__`."""
        return type(self), (self.path, self.reason)


UnreadablePicture = UnreadableImage  # Its name in earlier versions.


class Refused(Exception):
    """A valid image is not supported or not allowed; the message is the reason, as a phrase without a period."""


def listed(names: Iterable[object], limit: int = 10) -> str:
    """Join at most `limit` names with commas, and say how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the known names nearest to `name`, or "" if none is near."""
    return did_you_mean(name, known, most=3)
