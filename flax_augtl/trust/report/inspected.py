"""What a report says about labels and odd images: an inspection of some of the images."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import Examples
from flax_augtl.trust.inspection import Inspection, inspect_parts
from flax_augtl.trust.trained import spaced

# So many images are looked at, so that it takes a second or two.
MOST = 600
RANDOM = "The labels were not inspected: that needs pretrained weights, and this network started from random ones."


def inspect_some(
    class_names: Sequence[str],
    splits: Mapping[str, Examples | None],
    features_of: Callable[[Examples, str], np.ndarray],
    data: DataConfig,
) -> tuple[Inspection | None, str]:
    """Inspect at most 600 images.

    Args:
      class_names: the name of each class.
      splits: the examples of each split; those of the first one come first.
      features_of: (examples, name of their split) -> float [n, d], features of weights that were not trained on the labels.
      data: config.data.

    Returns:
      What was found, None with too few images; and a sentence about which images were looked at.
    """
    parts: dict[str, Examples] = {}
    total = seen = 0
    for name, examples in splits.items():
        if examples is not None and len(examples):
            total += len(examples)
            if seen < MOST:
                parts[name] = examples.take(spaced(examples.labels, MOST - seen))
                seen += len(parts[name])
    if total <= len(class_names):
        return None, "The labels were not inspected: there are too few images."
    some = "" if seen == total else f"{seen} of {total} images were looked at, those of the first split first. "
    more = "--mode=inspect looks at all images, and writes all findings into tables."
    return inspect_parts(class_names, parts, features_of, data), some + more
