"""Presets for common TFDS datasets: official splits, the metric of the literature, and where TFDS differs from it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preset:
    """How a TFDS dataset is used.

    Attributes:
      train: the training split in TFDS.
      val: the validation split; None to take it from the training split.
      test: the test split; None to take it from the training split.
      metric: "top1" or "mean_per_class", whichever the literature reports.
      leaves_out: classes that the literature does not use.
      config: the TFDS builder config; "" for the only or default one.
      note: a sentence for the log if TFDS and the literature differ.
    """

    train: str = "train"
    val: str | None = None
    test: str | None = "test"
    metric: str = "top1"
    leaves_out: tuple[str, ...] = ()
    config: str = ""
    note: str = ""


PRESETS = {
    "oxford_flowers102": Preset(
        val="validation", metric="mean_per_class",
        note="oxford_flowers102: the official 1020 train, 1020 validation and 6149 test images. Much of the "
        "literature trains on train and validation together, which the retraining after selection does.",
    ),
    "caltech_birds2011": Preset(),
    "stanford_dogs": Preset(
        note="stanford_dogs is made of ImageNet training images: a network trained on ImageNet has seen them.",
    ),
    "oxford_iiit_pet": Preset(
        metric="mean_per_class", note="oxford_iiit_pet shares classes with ImageNet: a kept classification layer has "
        "an advantage.",
    ),
    "caltech101": Preset(
        metric="mean_per_class", leaves_out=("background_google",),
        note="caltech101: TFDS's splits are 30 random images a class for train and all the rest for test. Its 102nd "
        "class, background_google, is left out, as most of the literature does.",
    ),
    "cars196": Preset(),
    "dtd": Preset(
        val="validation",
        note="dtd: the first of the ten official divisions, train, validation and test of 1880 images each.",
    ),
    "food101": Preset(test="validation", note="food101: TFDS calls the official test split validation."),
    "sun397": Preset(
        config="standard-part1-120k",
        note="sun397: standard-part1-120k, the first of the literature's official divisions (50 + 50 images a "
        "class). TFDS's own default, tfds, is a random division.",
    ),
    "cifar10": Preset(),
    "cifar100": Preset(),
    "eurosat": Preset(test=None, config="rgb", note="eurosat has no official test split: a part of the images is set "
                                                    "aside as one."),
    "imagenette": Preset(test="validation", note="imagenette: its validation split is used as the test split."),
    "tf_flowers": Preset(test=None, note="tf_flowers has no official test split: a part of the images is set aside as "
                                         "one."),
}  # fmt: skip
