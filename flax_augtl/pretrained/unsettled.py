"""Preprocessing that a checkpoint asks for and this program does not support, and how the user replaces it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.pretrained.errors import CheckpointError


class Unsettled(NamedTuple):
    """A field of another library's description that is not supported.

    Attributes:
      said: the field as written there, such as "do_resize=False".
      by: fields of `Preprocessing`; the user replaces the unsupported one by setting any of them.
    """

    said: str
    by: tuple[str, ...]


def settle(
    preprocessing: Preprocessing, unsettled: Sequence[Unsettled], given: Mapping[str, Any] | None, where: str
) -> Preprocessing:
    """Return a checkpoint's preprocessing with the fields that the user sets by hand.

    Args:
      preprocessing: the part of the checkpoint's preprocessing that is supported.
      unsettled: the part that is not.
      given: fields of `Preprocessing`; None stands for one that is not set.
      where: the checkpoint's name for messages.

    Raises:
      CheckpointError: a field of the description is not supported, and no field that is set replaces it.
      UserError: a field is unknown, or a value is out of range.
    """
    given = {name: value for name, value in (given or {}).items() if value is not None}
    still = [each for each in unsettled if not given.keys() & set(each.by)]
    if still:
        lines = (f"{each.said}: set {' or '.join(map(_field, each.by))} by hand" for each in still)
        raise CheckpointError(
            f"{where} asks for preprocessing that is not supported:\n  " + "\n  ".join(lines) + "\n"
            "What is set by hand takes the place of what the checkpoint says."
        )
    return preprocessing.replace(**given)


def _field(name: str) -> str:
    return "config.image_size" if name == "image_size" else f"config.preprocessing.{name}"
