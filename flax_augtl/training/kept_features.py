"""The kept features of a run: computed once by the frozen layers, then read by every step and evaluation."""

import dataclasses
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from flax_augtl.config.data_config import DataConfig
from flax_augtl.config.features_config import DEVICE, FILE, MEMORY
from flax_augtl.config.schema import Config
from flax_augtl.data.loading import sampler
from flax_augtl.data.types import Dataset, Examples
from flax_augtl.features.activations import cut_names, open_activations
from flax_augtl.features.cache import cache_key, shown
from flax_augtl.features.feed import Feed
from flax_augtl.features.plan import FeaturePlan, dtype_of, views_of
from flax_augtl.features.views import EVALUATION, Rows
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.pretrained import Preprocessing
from flax_augtl.runtime import distributed, signals
from flax_augtl.runtime.paths import cache_folder, is_remote
from flax_augtl.runtime.prefetch import one_ahead
from flax_augtl.runtime.text import duration
from flax_augtl.training.pmapped import replicate
from flax_augtl.workdir import files


@dataclasses.dataclass(frozen=True)
class KeptSplit:
    """The kept features of one split.

    Attributes:
      feed: makes batches of them.
    """

    feed: Feed

    @property
    def start(self) -> int:
        """Index of the layer group that reads them."""
        return self.feed.start

    @property
    def pool(self) -> Any:
        """What the batches have indices into; None if they bring the features themselves."""
        return self.feed.pool

    def training_batches(
        self,
        examples: Examples,
        data: DataConfig,
        *,
        batch_size: int,
        seed: int,
        position: int,
        steps: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Generator[dict[str, Any], None, None]:
        """Yield the batches of `data.train_batches`, with features in place of images."""
        rows, n = self.feed.activations.rows, len(examples)
        positions = rows.positions(examples.ids)

        def make(step: int) -> dict[str, Any]:
            which, views = sampler.stream(
                step * batch_size + process_index,
                (step + 1) * batch_size,
                n,
                seed,
                stride=process_count,
                views=data.views,
            )
            return self.feed.batch(rows.at(positions[which], views), examples.labels[which])

        return one_ahead(make, range(position, steps))

    def evaluation_batches(
        self, examples: Examples, *, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[dict[str, Any]]:
        """Yield the batches of `data.eval_batches`, with features in place of images."""
        rows, n, b = self.feed.activations.rows, len(examples), batch_size // process_count
        positions = rows.positions(examples.ids)
        for number in range(-(-n // batch_size)):
            which = np.arange(number * b, (number + 1) * b) * process_count + process_index
            blank = which >= n
            which = np.where(blank, 0, which)
            labels = np.where(blank, 0, examples.labels[which])
            yield self.feed.batch(rows.at(positions[which], EVALUATION), labels, mask=(~blank).astype(np.float32))


@dataclasses.dataclass(frozen=True)
class RunFeatures:
    """The kept features of a run.

    Attributes:
      splits: by name: train, val, test.
      seconds: that making them took in this process.
    """

    splits: Mapping[str, KeptSplit]
    seconds: float


def make_features(
    plan: FeaturePlan,
    config: Config,
    network: AugmentedNetwork,
    preprocessing: Preprocessing,
    dataset: Dataset,
    variables: Mapping[str, Any],
    *,
    folder: Path,
    say: Callable[[str], Any],
) -> RunFeatures:
    """Have the frozen layers compute what a run keeps of them; files of an earlier start are used again.

    Args:
      plan: what is kept.
      config: of the run.
      network: its network.
      preprocessing: of its images.
      dataset: its images.
      variables: of the network; those of the frozen layers count.
      folder: where files are.
      say: called with sentences for the log.

    Raises:
      CannotWrite: the files cannot be written.
    """
    names = sorted(jax.tree.leaves(cut_names(network, plan.start)))
    source: dict[str, Any] = {
        collection: jax.tree.map(np.asarray, parts["source"])
        for collection, parts in variables.items()
        if "source" in parts
    }
    frozen = {
        collection: {group: tree for group, tree in groups.items() if group in network.groups[: plan.start]}
        for collection, groups in source.items()
    }
    module: Any = network.source
    splits, seconds, each = {}, 0.0, 0.0
    for split, examples in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)):
        if examples is None or not len(examples):
            continue
        views = views_of(config.data) if split == "train" else 0
        rows = Rows([examples], preprocessing, config.data, views=views, evaluation=split != "train")
        activations = open_activations(
            rows,
            module,
            source,
            preprocessing,
            names,
            place=FILE if plan.cache == FILE else MEMORY,
            budget=math.inf,
            device_bytes=math.inf,
            dtype=dtype_of(config),
            key=cache_key(frozen, type(module).__name__, repr(module), config.compute_dtype),
            folder=folder / split,
            section="features",
        )
        activations.fill(shown(f"the {split} split", say, watch=lambda left: signals.raise_if_alone()))
        feed = Feed(activations, network, plan.start, plan.cache == DEVICE, None, replicate)
        if feed.pool is not None:
            activations.leave_host()
        splits[split] = KeptSplit(feed)
        seconds += activations.fill_seconds
        each = each or activations.row_seconds
    say(_saved(plan, seconds, each))
    return RunFeatures(splits, seconds)


def _saved(plan: FeaturePlan, seconds: float, each: float) -> str:
    """Return a sentence about the time that keeping features saves.

    Args:
      plan: what is kept.
      seconds: that making the features took.
      each: seconds for a view; 0 if that is not known.
    """
    if not seconds:
        return "The features are there from an earlier start."
    saved = f" Keeping them saves about {duration(each * (plan.images - plan.rows))} over the whole run." * (each > 0)
    return f"The features were made in {seconds:.1f} s.{saved}"


def folder_of(workdir: epath.Path) -> Path:
    """Return the folder of the kept features of a run; of a run in a bucket, it is on this machine."""
    if not is_remote(workdir):
        return Path(os.fspath(workdir)) / files.FEATURES
    name = hashlib.blake2b(os.fspath(workdir).encode(), digest_size=8).hexdigest()
    return cache_folder() / files.FEATURES / name


def remove_files(workdir: epath.Path) -> None:
    """Remove the files of kept features of a run that is finished."""
    if distributed.is_first():
        shutil.rmtree(folder_of(workdir), ignore_errors=True)
