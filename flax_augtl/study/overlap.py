"""Report overlaps of the source and target tasks, and of seeds with the test images of others (METHOD.md §5)."""

import re
from collections.abc import Mapping, Sequence

from flax_augtl.data import Dataset
from flax_augtl.pretrained.class_names import imagenet_names

# By the TFDS name of a dataset: what it is known to share with ImageNet.
KNOWN = {
    "stanford_dogs": "Stanford Dogs is made of ImageNet images: the source network has been trained on them, "
                     "test images included, and a kept classification layer already tells these breeds apart.",
    "oxford_iiit_pet": "Oxford Pets shares classes with ImageNet: a kept classification layer already knows them.",
    "imagenette": "Imagenette is a part of ImageNet: the source network has been trained on its classes.",
}  # fmt: skip


def leakage(dataset_name: str, class_names: Sequence[str], source_class_names: Sequence[str]) -> tuple[str, ...]:
    """Return sentences about what the source and target tasks share: known datasets, or classes of the same name.

    Args:
      dataset_name: config.data.name.
      class_names: of the target task.
      source_class_names: of the source network; empty if they are unknown.
    """
    imagenet = not source_class_names or len({*source_class_names} & {*imagenet_names()}) > len(source_class_names) / 2
    sentences = [KNOWN[dataset_name]] if imagenet and dataset_name in KNOWN else []
    known = {_plain(part) for name in source_class_names for part in [name, *name.split(",")]}
    shared = [name for name in class_names if _plain(name) in known]
    if shared:
        more = f" and {len(shared) - 20} more" if len(shared) > 20 else ""
        have = "has the name" if len(shared) == 1 else "have names"
        sentences.append(
            f"{len(shared)} of the {len(class_names)} target classes {have} of source classes, so a kept "
            f"classification layer already knows them and has an advantage: {', '.join(shared[:20])}{more}."
        )
    return tuple(sentences)


def seen_by_other_seeds(datasets: Mapping[int, Dataset]) -> tuple[str, ...]:
    """Return a sentence if test images of one seed are in the training or validation data of another seed.

    Args:
      datasets: by seed.
    """
    tested, known = set(), set()
    for dataset in datasets.values():
        tested.update(dataset.test.ids)
        known.update(dataset.train.ids, dataset.val.ids if dataset.val is not None else ())
    if not (both := tested & known):
        return ()
    return (
        f"Each seed has a test split of its own: {len(both)} of the {len(tested)} test images of all seeds are in the "
        "training or validation data of another seed, so choices over several seeds have used them, and test "
        "accuracies may be too high. A new study has one test split for all seeds (config.data.split_seed).",
    )


def one_test_split(datasets: Mapping[int, Dataset]) -> bool:
    """Tell whether all seeds are tested on the same images."""
    return len({frozenset(dataset.test.ids) for dataset in datasets.values()}) == 1


def _plain(name: str) -> str:
    """Return a class name without case, underscores, hyphens and a plural s."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold().removesuffix("s")
