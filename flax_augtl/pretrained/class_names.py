"""Names of the classes of a kept classification layer."""

import functools
from importlib import resources


@functools.cache
def imagenet_names() -> tuple[str, ...]:
    """Return the names of the 1000 ImageNet classes, in the order of every published classifier."""
    text = resources.files("flax_augtl.pretrained").joinpath("imagenet_classes.txt").read_text("utf-8")
    return tuple(text.splitlines())


def default_names(classes: int | None) -> tuple[str, ...]:
    """Return the names to use where the checkpoint has none: ImageNet's for 1000 classes, else "class 0" and so on."""
    if not classes:
        return ()
    return imagenet_names() if classes == 1000 else tuple(f"class {i}" for i in range(classes))
