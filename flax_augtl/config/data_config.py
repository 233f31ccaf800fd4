"""The fields of `config.data`: which images, how they are split, and how they get to the devices."""

import dataclasses

from flax_augtl.config.field import SAME, setting

# Decompression bombs start here, as for Pillow: 178,956,970 pixels.
MAX_PIXELS = 178_956_970


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What `config.data` holds; see docs/data.md."""

    name: str = setting("folder", "folder, list, digits, glyphs, or the name of a TFDS dataset.")
    root: str | None = setting(
        None,
        "Of folder: a folder with train/, val/ and test/ of one sub-folder for each class, or with the classes' folders "
        "themselves. Of list: the folder that the paths are relative to. Of a TFDS dataset: its data_dir, None = "
        "TFDS's own.",
    )
    folder_rules: int = setting(
        2,
        "How a folder is read: 2 = as docs/data.md says; 1 = as the first version did, for runs that began with it.",
        least=1,
        most=2,
        absent=1,
    )
    train_list: str | None = setting(
        None, "Of list: a file (text, CSV or TSV) with path and label of the training images."
    )
    val_list: str | None = setting(None, "Of list: the same for validation.")
    test_list: str | None = setting(None, "Of list: the same for the test split.")
    class_list: str | None = setting(None, "Of list: a file with the names of the classes in their order.")
    path_column: str | None = setting(
        None,
        "Of list: the column of the path, by its heading or by its number from 1; None = found by the headings.",
        absent=SAME,
    )
    label_column: str | None = setting(
        None, 'Of list: the column of the label, likewise; "" = the folder is the label.', absent=SAME
    )
    split_column: str | None = setting(
        None, 'Of list: the column of the split, likewise; "" = there is no split.', absent=SAME
    )
    list_rules: int = setting(
        2,
        "How lists are read: 2 = as docs/data.md says; 1 = as the first version did, for runs that began with it.",
        least=1,
        most=2,
        absent=1,
    )
    rate: float = setting(
        1.0,
        "Share of each class to train with, such as 0.15, 0.3, 0.5. The examples of a smaller share are part of those "
        "of a larger one.",
    )
    shots: int | None = setting(None, "Examples for each class to train with, validation included; None = all.")
    test: float = setting(0.2, "Test split where the data have none: a share in (0, 1), or a number of examples.")
    split_seed: int | None = setting(
        0, "Seed of that test split and of the folds, the same for all seeds.", least=0, absent=None
    )
    group: str | None = setting(
        None,
        "Images that stay in one split, such as all images of one patient: a column of a list, or a regular expression "
        'with one group that is searched in the path, such as "(patient[0-9]+)_". None = every image for itself.',
        absent=SAME,
    )
    folds: int = setting(
        0,
        "Cross-validation: the training data in so many parts, each of which is the test split once; 0 = none.",
        least=0,
        absent=SAME,
    )
    fold: int | None = setting(
        None,
        "Which part is the test split, from 0; None = each in turn, in WORKDIR/fold0 and so on.",
        least=0,
        absent=SAME,
    )
    validation: float = setting(
        0.2, "Validation split, taken from the training data: a share in (0, 1), a number of examples, or 0 for none."
    )
    metric: str | None = setting(
        None,
        "What validation chooses by: top1, mean_per_class; None = what the literature reports for the dataset, or top1.",
        choices=("top1", "mean_per_class"),
    )
    on_bad_image: str = setting(
        "error",
        "Images that cannot be read: error, or skip (they are counted, and listed in the run directory).",
        choices=("error", "skip"),
    )
    max_pixels: int = setting(
        MAX_PIXELS,
        "An image with more pixels (width × height) counts as unreadable. A decoded pixel takes three bytes or more.",
        least=1,
        absent=SAME,
    )
    on_leak: str = setting(
        "warn",
        "Test images that are in the training data too: warn, drop (from training), error.",
        choices=("warn", "drop", "error"),
    )
    on_conflict: str | None = setting(
        None,
        "Equal training images with different labels: warn, drop (all of them), error, ignore; None = as on_leak.",
        absent="ignore",
        choices=("warn", "drop", "error", "ignore"),
    )
    near_copies: str = setting(
        "warn",
        "Training images that are re-encoded, resized, mirrored or slightly changed copies of test images: warn, drop, "
        "error, ignore.",
        absent="ignore",
        choices=("warn", "drop", "error", "ignore"),
    )
    scan: float = setting(
        1.0,
        "Share of the images that are read and compared with each other before training, from 0 to 1. Below 1, images "
        "that cannot be read and copies of images in two splits may stay unknown.",
        least=0,
        most=1,
        absent=SAME,
    )
    scan_dir: str | None = setting(
        None, 'Where the results of checking the image files are kept; None = the user\'s cache folder, "" = nowhere.'
    )
    views: int = setting(
        0,
        "Number of random views (crop, flip, …) of an example that training draws from; 0 = a fresh one each time.",
        least=0,
    )
    view_seed: int = setting(0, "Seed of the random views. Runs with different seeds can share views.")
    crop: str = setting(
        "resized",
        "Training crop: resized (RandomResizedCrop), random (resize, then a random crop), none (the evaluation transform).",
        choices=("resized", "random", "none"),
    )
    crop_scale: tuple[float, ...] = setting(
        (0.25, 1.0), "Of the crop resized: smallest and largest share of the image's area."
    )
    flip: str | float | bool = setting(
        "horizontal",
        "Mirror images at random: none, horizontal (left and right), both (also top and bottom).",
        choices=("none", "horizontal", "both"),
    )
    rotate: str | float | bool = setting(
        0.0,
        "Rotate images at random: the largest angle in degrees, each way; or right_angles, for images without an upright.",
        absent=SAME,
    )
    shift: int = setting(0, "Largest random shift in pixels; 0 = none.", least=0)
    blur: float = setting(
        0.0, "Largest standard deviation of a random Gaussian blur, in pixels; 0 = none.", least=0, absent=SAME
    )
    policy: str = setting(
        "none",
        "Random changes of color and shape on the host: none, rand (RandAugment), trivial (TrivialAugment).",
        choices=("none", "rand", "trivial"),
    )
    jitter: float = setting(
        0.0, "Brightness, contrast and saturation each change by a factor of up to 1 ± this.", least=0, most=1
    )
    erase: float = setting(0.0, "Probability that a rectangle of an image is erased.", least=0, most=1)
    mixup: float = setting(0.0, "Alpha of mixup; 0 = off.", least=0)
    cutmix: float = setting(0.0, "Alpha of CutMix; 0 = off.", least=0)
    threads: int = setting(8, "Threads that decode images.", least=0)
    workers: int = setting(0, "Worker processes that decode images instead of threads; 0 = threads.", least=0)
    cache: str = setting(
        "none",
        "Keep decoded images: none; auto; memory (of the host); file (a scratch file in cache_dir); device (the training "
        "split lives on the device, and is cropped there).",
        choices=("none", "auto", "memory", "file", "device"),
    )
    cache_gb: float = setting(4.0, "Gigabytes that this cache may take.", least=0)
    cache_dir: str | None = setting(None, "Folder of the scratch file; None = the system's folder for temporary files.")
