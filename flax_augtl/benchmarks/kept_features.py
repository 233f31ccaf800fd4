"""Features of the images of some folders, computed once and kept in files, for benchmarks that compare scores."""

import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from flax_augtl.data.errors import UnreadablePicture
from flax_augtl.data.sources.folder_tree import image_paths
from flax_augtl.data.sources.image_files import FileSource
from flax_augtl.pretrained import Source
from flax_augtl.runtime.text import shows_bars

BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """The images of a folder as a network sees them.

    Attributes:
      name: of the folder.
      labels: int [N], the class of each image: the folder that it is in.
      penultimate: float32 [N, D].
      below: float16 [N, H, W, C], what the last stage reads; empty if it was not asked for.
      class_names: of the labels.
    """

    name: str
    labels: np.ndarray
    penultimate: np.ndarray
    below: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def kept_features(
    folder: str, source: Source, keep: Path, *, most: int, most_classes: int, below: bool = False
) -> Kept:
    """Return the features of images of a folder, from a file in `keep` if an earlier call wrote it.

    Args:
      folder: of images, at any depth; the last folder of each path is its class.
      source: a residual network, whose last groups are its last stage and its classification layer.
      keep: a folder.
      most: number of images; from a folder with more, evenly spaced ones are taken.
      most_classes: number of classes; likewise.
      below: keep the input of the last stage as well.
    """
    name = Path(folder).name
    size = source.preprocess.image_size
    stem = f"{name}_{source.name}_{size}_{most}_{most_classes}"
    file = keep / f"{stem}_below.npz"
    if not below and not file.exists():
        file = keep / f"{stem}.npz"
    if not file.exists():
        keep.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp.npz")
        np.savez(temporary, **_computed(folder, chosen(image_paths(folder), most, most_classes), source, below))  # pyright: ignore[reportArgumentType]
        temporary.replace(file)
    with np.load(file, allow_pickle=False) as found:
        return Kept(
            name, found["labels"], found["penultimate"], found["below"], tuple(json.loads(str(found["class_names"])))
        )


def chosen(paths: Sequence[str], most: int, most_classes: int) -> list[str]:
    """Return at most so many evenly spaced paths of at most so many evenly spaced classes."""
    classes = _spaced(sorted({Path(path).parent.name for path in paths}), most_classes)
    return _spaced([path for path in paths if Path(path).parent.name in classes], most)


def _spaced(values: Sequence[str], most: int) -> list[str]:
    places = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).astype(int))
    return [str(values[int(place)]) for place in places]


def _computed(folder: str, paths: Sequence[str], source: Source, below: bool) -> dict[str, np.ndarray]:
    images, model, last = FileSource(folder, tuple(paths)), source.model, len(source.groups) - 2

    @jax.jit
    def step(variables, pixels):
        x = model.apply(variables, source.preprocess.normalise(pixels), 0, last)
        return x, model.apply(variables, x, last, last + 1)

    kept: list[str] = []
    features, inputs = [], []
    for start in tqdm(range(0, len(paths), BATCH), desc=f"{folder} {source.name}", disable=not shows_bars()):
        pixels = []
        for index in range(start, min(start + BATCH, len(paths))):
            try:
                pixels.append(source.preprocess.resize_and_crop(images[index]))
            except UnreadablePicture as error:
                print(f"left out: {error.path}: {error.reason}", file=sys.stderr)
            else:
                kept.append(Path(paths[index]).parent.name)
        filled = np.stack(pixels + [np.zeros_like(pixels[0])] * (BATCH - len(pixels)))
        x, top = step(source.variables, filled)
        features.append(np.asarray(top)[: len(pixels)])
        if below:
            inputs.append(np.asarray(x)[: len(pixels)].astype(np.float16))
    names = sorted(set(kept))
    return {
        "labels": np.array([names.index(name) for name in kept]),
        "penultimate": np.concatenate(features),
        "below": np.concatenate(inputs) if below else np.zeros(0, np.float16),
        "class_names": np.array(json.dumps(names)),
    }


@functools.cache
def splits(labels: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions of training, validation and test images: 55, 20 and 25 % of each class."""
    rng = np.random.default_rng(seed)
    parts: Sequence[list[np.ndarray]] = ([], [], [])
    for label in sorted(set(labels)):
        order = rng.permutation(np.flatnonzero(np.array(labels) == label))
        ends = np.round(np.array([0.55, 0.75]) * len(order)).astype(int)
        for part, some in zip(parts, np.split(order, ends), strict=True):
            part.append(some)
    train, val, test = (np.sort(np.concatenate(part)) for part in parts)
    return train, val, test
