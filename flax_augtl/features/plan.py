"""Whether a run keeps the outputs of its frozen layers, where, and what that saves."""

import dataclasses
import os
import shutil
from collections.abc import Mapping

import jax
import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.config.features_config import AUTO, DEVICE, FILE, MEMORY, NONE
from flax_augtl.config.schema import Config
from flax_augtl.errors import UserError
from flax_augtl.features.activations import cut_names, row_shapes
from flax_augtl.features.views import has_draws
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.pretrained import Preprocessing

# `auto` keeps features if the frozen layers would otherwise compute so many times as many images.
WORTH = 1.25
# Views of an image that the log recommends where a run draws fresh ones.
SOME_VIEWS = 4


@dataclasses.dataclass(frozen=True)
class FeaturePlan:
    """What is kept of the frozen layers.

    Attributes:
      cache: where: none, memory, file or device.
      note: a sentence for the log; empty if there is nothing to say.
      start: index of the layer group that reads what is kept.
      rows: number of views that are kept, those of the evaluation splits included.
      images: number of images that the frozen layers compute in the whole run without it.
      bytes: size of what is kept.
    """

    cache: str = NONE
    note: str = ""
    start: int = 0
    rows: int = 0
    images: int = 0
    bytes: int = 0

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self.cache != NONE


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long a run is.

    Attributes:
      examples: number of examples of each split: train, val, test.
      steps: number of steps.
      evaluations: number of evaluations on the validation split.
    """

    examples: Mapping[str, int]
    steps: int
    evaluations: int

    def rows(self, views: int) -> int:
        """Return how many views are kept, with so many views of each training example."""
        return self.examples["train"] * max(views, 1) + self.examples["val"] + self.examples["test"]

    def images(self, batch_size: int) -> int:
        """Return how many images go through the network in the whole run, if nothing is kept."""
        # Both splits are evaluated once more at the end.
        evaluated = self.examples["val"] * (self.evaluations + 1) + self.examples["test"]
        return self.steps * batch_size + evaluated


def views_of(data: DataConfig) -> int:
    """Return how many training views an example has, 0 if each is the evaluation view."""
    return data.views if has_draws(data) else 0


def plan_features(
    config: Config,
    network: AugmentedNetwork,
    preprocessing: Preprocessing,
    depth: int,
    lengths: Lengths,
    *,
    decided: str | None = None,
    folder: str | None = None,
) -> FeaturePlan:
    """Decide whether a run keeps features.

    Args:
      config: of the run.
      network: its network.
      preprocessing: of its images.
      depth: number of frozen layer groups.
      lengths: of the run.
      decided: what `auto` decided when the run was started, if it is resumed.
      folder: an existing folder on the disk of the run; None if that is not a local one.

    Raises:
      UserError: the configuration asks for something that does not fit or does not work.
    """
    data, asked = config.data, config.features.cache
    if asked == NONE or not depth:
        return FeaturePlan()
    images, below = lengths.images(config.batch_size), f"up to {network.groups[depth - 1]}"
    if (endless := _endless(data)) is not None:
        rows = lengths.rows(SOME_VIEWS)
        saving = (
            f" With config.data.views={SOME_VIEWS}{' and without it' * endless[1]}, they would compute {rows} images"
        )
        saving += (
            f" once instead of {images} over the whole run, which trains on what was kept." if rows < images else ""
        )
        return FeaturePlan(
            note=f"The frozen layers, {below}, are computed in every step, because {endless[0]}."
            + (saving if rows < images else "")
        )
    if jax.process_count() > 1 and asked != AUTO:
        raise UserError(
            f"config.features.cache={asked} does not work with several processes yet. Set it to auto or none: the "
            "frozen layers are then computed in every step."
        )
    if jax.process_count() > 1:
        return FeaturePlan(
            note=f"The frozen layers, {below}, are computed in every step, because several processes train together."
        )
    rows, start = lengths.rows(views_of(data)), depth
    names = sorted(jax.tree.leaves(cut_names(network, start)))
    shapes = row_shapes(network.source, preprocessing, names, dtype_of(config))
    size = rows * sum(int(np.prod(shape)) * jax.numpy.dtype(dtype).itemsize for shape, dtype in shapes.values())
    found = FeaturePlan(start=start, rows=rows, images=images, bytes=size)
    if asked != AUTO:
        if size > 1e9 * config.features.cache_gb:
            raise UserError(
                f"The features that config.features.cache={asked} asks for take {amount(size)}, more than "
                f"config.features.cache_gb={config.features.cache_gb}: raise it, or set config.features.cache to auto."
            )
        place, why = asked, ""
    elif decided is not None:
        place, why = decided, "that is how the run was started"
    elif images < WORTH * rows:
        place, why = NONE, f"the run is short: {images} images in all, and {rows} views to keep"
    else:
        place, why = _place(size, config.features.cache_gb, folder)
    if place == NONE:
        return FeaturePlan(note=f"The frozen layers, {below}, are computed in every step: {why}.")
    return dataclasses.replace(found, cache=place, note=_said(found, place, below, lengths, views_of(data)))


def _endless(data: DataConfig) -> tuple[str, bool] | None:
    """Return why no two inputs of the network are alike, and whether images are mixed; None if their number is finite."""
    for name in ("mixup", "cutmix"):
        if value := getattr(data, name):
            return f"config.data.{name}={value} mixes images anew in each", True
    if has_draws(data) and not data.views:
        return "config.data.views=0 draws fresh views of each image", False
    return None


def dtype_of(config: Config) -> str:
    """Return the dtype of kept features: that of the computation, so that nothing is lost."""
    return "bfloat16" if config.compute_dtype == "bfloat16" else "float32"


def _place(size: int, gigabytes: float, folder: str | None) -> tuple[str, str]:
    """Return where `auto` keeps so many bytes, and why if it is nowhere."""
    if size > 1e9 * gigabytes:
        return NONE, f"their outputs would take {amount(size)}, more than config.features.cache_gb={gigabytes}"
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", 0) if device.platform != "cpu" else 0
    if 4 * size <= limit:
        return DEVICE, ""
    if 2 * size <= free_memory():
        return MEMORY, ""
    if folder is not None and 2 * size <= shutil.disk_usage(folder).free:
        return FILE, ""
    return NONE, f"their outputs would take {amount(size)}, more than half of the free memory and of the free disk"


def free_memory() -> float:
    """Return the bytes of memory that programs can take; infinite if the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            found = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(found["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / 2
    except (AttributeError, OSError, ValueError):
        return float("inf")


def _said(plan: FeaturePlan, place: str, below: str, lengths: Lengths, views: int) -> str:
    where = {MEMORY: "in memory", FILE: "in files below the workdir", DEVICE: "on the device"}[place]
    each = f"{views} views of {lengths.examples['train']}" if views else f"{lengths.examples['train']}"
    other = [f"{lengths.examples[split]} {word}" for split, word in (("val", "validation"), ("test", "test"))]
    return (
        f"Kept features: the frozen layers, {below}, compute {each} training, {' and '.join(other)} images once, "
        f"{plan.rows} instead of {plan.images} over the whole run. They take {amount(plan.bytes)} {where}."
    )


def amount(size: float) -> str:
    """Return a number of bytes as text."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
