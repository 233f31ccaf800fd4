"""What the source network has seen of the target task, declared (METHOD.md §5)."""

import re
from collections.abc import Sequence

from flax_augtl.pretrained.class_names import imagenet_names

# Of data sets, by the name of TFDS, what is known to be shared with ImageNet.
KNOWN = {
    "stanford_dogs": "Stanford Dogs is made of ImageNet pictures: the source network has been trained on them, "
                     "test pictures included, and a kept classification layer already tells these breeds apart.",
    "oxford_iiit_pet": "Oxford Pets shares classes with ImageNet: a kept classification layer already knows them.",
    "imagenette": "Imagenette is a part of ImageNet: the source network has been trained on its classes.",
}  # fmt: skip


def leakage(dataset_name: str, class_names: Sequence[str], source_class_names: Sequence[str]) -> tuple[str, ...]:
    """Return sentences about what source and target task share: the pictures or classes of known data sets, equal names.

    Args:
      dataset_name: config.data.name.
      class_names: of the target task.
      source_class_names: of the source network; empty where they are not known.
    """
    imagenet = not source_class_names or len({*source_class_names} & {*imagenet_names()}) > len(source_class_names) / 2
    sentences = [KNOWN[dataset_name]] if imagenet and dataset_name in KNOWN else []
    known = {_plain(part) for name in source_class_names for part in [name, *name.split(",")]}
    shared = [name for name in class_names if _plain(name) in known]
    if shared:
        more = f" and {len(shared) - 20} more" if len(shared) > 20 else ""
        have = "class has" if len(shared) == 1 else "classes have"
        sentences.append(f"{len(shared)} of the {len(class_names)} target {have} the name of a class of the source network, "
                         f"where a kept classification layer has an unfair edge: {', '.join(shared[:20])}{more}.")
    return tuple(sentences)


def _plain(name: str) -> str:
    """Return a class name without case, underscores, hyphens and the s of a plural."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold().removesuffix("s")
