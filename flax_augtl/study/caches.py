"""The kept activations of one study: what is kept of its pictures, where, and under which key."""

import dataclasses
import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

import flax_augtl
from flax_augtl import run_directory
from flax_augtl.data.examples import fingerprint
from flax_augtl.field_types import is_a
from flax_augtl.network import CLASSIFICATION
from flax_augtl.study.activations import KINDS, Activations, cut_names, open_activations
from flax_augtl.study.claims import Claims
from flax_augtl.study.material import Material
from flax_augtl.study.plan import Cell
from flax_augtl.study.rows import Rows
from flax_augtl.training.log import duration

CACHE = "cache"
# What the activations depend on, of this package's own text.
_CODE = ("models", "pretrained/preprocessing.py", "data", "study/activations.py", "study/rows.py", "study/store.py")


@dataclasses.dataclass
class TrainingCache:
    """The activations of a study's training and validation images, which are opened more than once.

    Attributes:
      material, folder: of the study.
      rows: what the images are.
      tests: number of test images, whose cache is another one.
      room: bytes for both caches.
      names: of the arrays that may be kept; None for all that cells read.
    """

    material: Material
    folder: Path
    rows: Rows
    tests: int
    room: float
    names: Sequence[str] | None = None

    @property
    def share(self) -> float:
        """Share of the room that this cache has, by its number of rows."""
        return len(self.rows) / (len(self.rows) + self.tests)

    def open(self) -> Activations:
        """Open the cache."""
        return open_cache(self.material, self.rows, "train", self.folder, self.room * self.share, self.names)


def needed(material: Material, groups: Sequence[tuple[str, str, str]] | None = None) -> list[str]:
    """Return the names of all arrays that the cells of a study, or of some (head, depth, classifier rate) of it, read."""
    names = set()
    for group in material.grid.groups() if groups is None else groups:
        cell = Cell("select", *group, 1.0, material.grid.seeds[0])
        names |= set(jax.tree.leaves(cut_names(material.network(cell), material.shared(cell))))
    if material.source.groups[-1] in CLASSIFICATION:
        names.add(material.source.groups[-1])  # LEEP reads it.
    return sorted(names)


def kind_of(material: Material, folder: Path) -> str:
    """Return where activations are kept: `file` if the disk has room for twice the budget, else `memory`, for `auto`.

    Raises:
      ValueError: the setting is unknown.
    """
    kind = material.config.study.cache
    if kind not in KINDS:
        raise ValueError(f"config.study.cache={kind!r} is not one of {', '.join(KINDS)}.")
    if kind != "auto":
        return kind
    free = shutil.disk_usage(folder).free
    return "file" if free > 2e9 * material.config.study.cache_gb else "memory"


@functools.cache
def code_key() -> str:
    """Return a key of the program's text that makes activations."""
    root, digest = Path(flax_augtl.__file__).parent, hashlib.blake2b(digest_size=8)
    for part in _CODE:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def weights_key(material: Material) -> str:
    """Return a key of the source network: its settings and all of its weights."""
    digest = hashlib.blake2b(digest_size=8)
    for path, leaf in jax.tree_util.tree_leaves_with_path(material.source.variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    described = material.described
    return fingerprint(digest.hexdigest(), described["network"], described["settings"], material.config.compute_dtype)


def open_cache(material: Material, rows: Rows, part: str, folder: Path, budget: float,
               names: Sequence[str] | None = None) -> Activations:
    """Open the activations of some rows of a study.

    Args:
      material: of the study.
      rows: which pictures in which views.
      part: name of the folder below that of the caches.
      folder: of the study.
      budget: bytes that may be kept.
      names: of the arrays that may be kept; None for all that cells read.

    Raises:
      ValueError: a setting is unknown, or the files cannot be written.
    """
    study = material.config.study
    if study.cache_dtype not in ("float32", "bfloat16"):
        raise ValueError(f"config.study.cache_dtype={study.cache_dtype!r} is not one of float32, bfloat16.")
    return open_activations(
        rows, material.source.model, material.source.variables, material.preprocessing,
        needed(material) if names is None else names,
        kind=kind_of(material, folder), budget=budget, device_bytes=1e9 * study.device_gb, dtype=study.cache_dtype,
        key=f"{weights_key(material)}-{code_key()}-{jax.__version__}", folder=folder / CACHE / part)


def spent(folder: Path) -> float:
    """Return the seconds that filling the caches of a study took, over all of its starts."""
    return sum(_seconds(path) for path in folder.glob("fill-*.json"))


def _seconds(path: Path) -> float:
    found = run_directory.read_json(path) if path.exists() else None
    return float(found["seconds"]) if isinstance(found, Mapping) and is_a(found.get("seconds"), "number") else 0.0


def fill(activations: Activations, claims: Claims, name: str, again: Callable[[], Activations],
         folder: Path) -> Activations:
    """Fill a cache, once for all workers that share its files; return it, filled.

    Args:
      activations: to fill.
      claims: of this worker.
      name: of the claim.
      again: opens the cache anew, to see what another worker filled.
      folder: of the study.
    """
    def say(done, rows, seconds):
        left = (rows - done) / max(done / seconds, 1e-9)
        print(f"  activations of {name}: {done}/{rows} pictures, {done / seconds:.0f} a second, {duration(left)} left",
              flush=True)

    last = [-10.0]

    def seldom(done, rows, seconds):
        if seconds - last[0] >= 10 or done >= rows:
            last[0] = seconds
            say(done, rows, seconds)

    waited = False
    while next(activations.store.missing(), None) is not None and activations.store.arrays:
        if activations.store.folder is None or claims.take(f"cache-{name}"):
            activations = activations if activations.store.folder is None else again()
            activations.fill(seldom)
            run_directory.write_json(folder / f"fill-{name}.json", {
                "seconds": _seconds(folder / f"fill-{name}.json") + activations.fill_seconds})
            claims.release(f"cache-{name}")
            return activations
        if not waited:
            print(f"Waiting for another worker, which fills the activations of {name}.", flush=True)
        waited = True
        time.sleep(2.0)
        activations = again()
    return activations
