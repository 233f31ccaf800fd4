"""Images in all their views, each with a row of its own among the kept activations."""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.images.augment import augment, augmentations
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.data.images.transforms import evaluation_path, training_path
from flax_augtl.data.loading.cache import view_of
from flax_augtl.data.types import Dataset, Examples, fingerprint

EVALUATION = -1  # The view that the evaluation transform of the weights gives.


class Rows:
    """Some examples in all of their views: row (v − first) · n + i is view v of example i.

    Attributes:
      ids: of the examples, in order.
      views: number of training views; 0 if training uses the evaluation view, or there is no training.
      first: the first view: `EVALUATION`, or 0 if only training views are kept.
      key: of all that the rows depend on: examples, transforms and random augmentation.
    """

    def __init__(
        self,
        parts: Sequence[Examples],
        preprocessing: Preprocessing,
        data: DataConfig,
        *,
        views: int,
        evaluation: bool = True,
    ):
        """Index the examples; nothing is decoded yet.

        Args:
          parts: the examples; duplicates by id count once.
          preprocessing: of the images.
          data: `config.data`.
          views: number of training views.
          evaluation: whether the evaluation view has rows beside training views.
        """
        self._where: dict[str, int] = {}
        chosen: list[tuple[Examples, int]] = []
        for part in parts:
            for number, name in enumerate(part.ids):
                if name not in self._where:
                    self._where[name] = len(chosen)
                    chosen.append((part, number))
        self.ids = tuple(self._where)
        self.views = views
        self.first = EVALUATION if evaluation or not views else 0
        self._sources = [part.source for part, _ in chosen]
        self._indices = [int(part.indices[number]) for part, number in chosen]
        self._draw_ids = np.array([part.draw_ids[number] for part, number in chosen], np.uint32)
        self._threads = max(1, data.threads)
        size = preprocessing.image_size
        self._paths = evaluation_path(preprocessing, size), training_path(data, preprocessing, size)
        draws = {"view_seed": data.view_seed, **augmentations(data)}
        self._augment = jax.jit(functools.partial(_augmented, draws=tuple(draws.items())))
        crop = {name: getattr(data, name) for name in ("crop", "crop_scale", "policy")} if views else None
        stamps = [
            getattr(source, "stamp", _no_stamp)(index)
            for source, index in zip(self._sources, self._indices, strict=True)
        ]
        self.key = fingerprint(
            self.ids, stamps, views, self.first, preprocessing.to_json(), crop, draws if views else None
        )

    def __len__(self) -> int:
        return len(self.ids) * (self.views - self.first)

    def of(self, ids: Sequence[str], views: np.ndarray | int) -> np.ndarray:
        """Return the rows, int32 [n], of examples in training views (int [n], or one int for all) or in `EVALUATION`."""
        which = np.array([self._where[name] for name in ids], np.int64)
        return self.at(which, views)

    def at(self, which: np.ndarray, views: np.ndarray | int) -> np.ndarray:
        """Return the rows, int32 [n], of examples given by their positions in `ids`."""
        block = np.where(np.asarray(views) < 0, 0, np.asarray(views) % self.views - self.first) if self.views else 0
        return (block * len(self.ids) + which).astype(np.int32)

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """Return the positions of examples in `ids`, int64 [n]."""
        return np.array([self._where[name] for name in ids], np.int64)

    def images(self, rows: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
        """Decode rows and augment their views; return uint8 [n, S, S, 3]."""
        view, which = np.divmod(np.asarray(rows), len(self.ids))
        view = view + self.first

        def one(number: int, view: int) -> np.ndarray:
            path = self._paths[0] if view < 0 else self._paths[1]
            return view_of(
                self._sources[number], path, self._indices[number], int(self._draw_ids[number]), max(view, 0)
            )

        images = np.stack(list(pool.map(one, which.tolist(), view.tolist())))
        if not (view >= 0).any():
            return images
        return np.asarray(self._augment(images, self._draw_ids[which], view.astype(np.int32)))

    def decoders(self) -> ThreadPoolExecutor:
        """Return a thread pool for decoding, to be used in a `with` statement."""
        return ThreadPoolExecutor(self._threads)


def _no_stamp(index: int) -> str:
    return ""


def _augmented(images: jax.Array, ids: jax.Array, views: jax.Array, *, draws: tuple[tuple[str, Any], ...]) -> jax.Array:
    changed = augment(images, ids, jnp.maximum(views, 0), **dict(draws))
    return jnp.where((views >= 0)[:, None, None, None], changed, images)


def has_draws(data: DataConfig) -> bool:
    """Return whether training views differ from the evaluation view."""
    return (
        data.crop != "none"
        or data.policy != "none"
        or any(value not in ("none", 0) for value in augmentations(data).values())
    )


def training_rows(datasets: Sequence[Dataset], preprocessing: Preprocessing, data: DataConfig) -> Rows:
    """Return the rows of all training and validation images of all seeds."""
    parts = [part for dataset in datasets for part in (dataset.train, dataset.val) if part is not None]
    return Rows(parts, preprocessing, data, views=data.views if has_draws(data) else 0)


def test_rows(datasets: Sequence[Dataset], preprocessing: Preprocessing, data: DataConfig) -> Rows:
    """Return the rows of all test images of all seeds; images are only read when their rows are decoded."""
    return Rows([dataset.test for dataset in datasets], preprocessing, data, views=0)
