"""Read a TFDS dataset that is prepared as ArrayRecord, with random access and without TensorFlow."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.images.decode import MAX_PIXELS, read_image
from flax_augtl.data.sources.image_files import states_of
from flax_augtl.data.types import fingerprint


class TfdsSource:
    """The images of one split of a prepared dataset, decoded by this package and not by TFDS.

    Only the image and the label of a record are read, so masks and boxes cost nothing.
    """

    def __init__(self, builder, split: str, max_pixels: int = MAX_PIXELS):
        """Open a split.

        Args:
          builder: the builder of a dataset in a format with random access.
          split: split in TFDS's notation, such as "train" or "train[:80%]".
          max_pixels: images with more pixels are refused.
        """
        import tensorflow_datasets as tfds  # Slow to import, and only these datasets need it.

        features = builder.info.features
        self._name = f"{builder.name} ({split})"
        self._folder = os.fspath(builder.data_path)
        self._image_key, self._label_key = image_and_label(builder)
        self._images = tfds.features.FeaturesDict({self._image_key: features[self._image_key]})
        self._labels = tfds.features.FeaturesDict({self._label_key: features[self._label_key]})
        self._still_encoded = {self._image_key: tfds.decode.SkipDecoding()}
        self._records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._records)

    def __getitem__(self, index: int) -> Image.Image:
        """Return an image."""
        return self.read(index)

    def path(self, index: int) -> str:
        """Return what to call an image."""
        return f"{index} of {self._name}"

    name = path

    def state(self, among: Sequence[int] | None = None) -> str:
        """Return a text that changes with the split, with any file of the dataset, and with `among`."""
        files = sorted(os.listdir(self._folder)) if os.path.isdir(self._folder) else []
        some = () if among is None else (list(among),)
        return fingerprint(self._folder, self._name, len(self), states_of(self._folder, files), *some)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of an image file."""
        found: Any = self._images.deserialize_example_np(self._records[index], decoders=self._still_encoded)
        return found[self._image_key]

    def read(self, index: int, at_least: tuple[int, int] | None = None) -> Image.Image:
        """Return an image as RGB; see `decode.read_image`."""
        return read_image(self.encoded(index), name=self.path(index), at_least=at_least, max_pixels=self.max_pixels)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The label of each record, int32 [n]; reads every record once."""
        read: Any = self._labels.deserialize_example_np  # TFDS's annotation is too general to be subscripted.
        return np.array([read(self._records[i])[self._label_key] for i in range(len(self))], np.int32)


def image_and_label(builder) -> tuple[str, str]:
    """Return the names of the features with the image and its class.

    Raises:
      DataError: the images do not have one class each.
    """
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    keys = builder.info.supervised_keys
    pairs = [keys] if keys and len(keys) == 2 else []
    images = [name for name, feature in features.items() if type(feature) is tfds.features.Image]
    labels = [name for name, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    for image, label in [*pairs, ("image", "label"), *((i, l) for i in images[:1] for l in labels[:1])]:
        if image in images and label in labels:
            return image, label
    raise DataError(
        f"The TFDS dataset {builder.name} does not hold images with one class each; it has {listed(features)}."
    )
