"""Outputs of the frozen layers for every image and view, computed once and kept.

A cut is the layer group at which training starts: what it reads is kept, so that the groups below need not run again.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from flax_augtl.features.array_store import BLOCK, Store
from flax_augtl.features.views import Rows
from flax_augtl.models.augmented import AugmentedNetwork
from flax_augtl.runtime.prefetch import one_ahead

IMAGES, POOLED = "pictures", "_pooled"


def cut_names(network: AugmentedNetwork, start: int) -> Any:
    """Return the names of the arrays that layer group `start` reads: one name, or a dict of `top` and `below`."""
    groups = network.source.groups
    if start == 0:
        return IMAGES
    if start == len(groups) and network.head.settings.widen:
        return {"top": groups[-1], "below": groups[-2] + POOLED}
    return groups[start - 1]


def outputs(
    model: Any, variables: Any, images: jax.Array, names: Sequence[str], preprocessing: Any
) -> dict[str, jax.Array]:
    """Run the source network once, and return the outputs of its layer groups by name.

    Args:
      model: the source network with its classification layer.
      variables: its variables.
      images: uint8 [b, S, S, 3].
      names: layer groups; a name that ends with `POOLED` stands for the mean over space.
      preprocessing: of the images.
    """
    found: dict[str, jax.Array] = {}
    x = preprocessing.normalise(images)
    last = max([model.groups.index(name.removesuffix(POOLED)) for name in names if name != IMAGES], default=-1)
    for index, group in enumerate(model.groups[: last + 1]):
        x = model.apply(variables, x, index, index + 1)
        if group in names:
            found[group] = x
        if group + POOLED in names:
            found[group + POOLED] = x.mean((1, 2)) if x.ndim == 4 else x
    return found


@dataclasses.dataclass
class Activations:
    """The kept activations of some rows.

    Attributes:
      rows: which images in which views.
      store: what is kept.
      compute: runs the source network on images and returns arrays by name.
      device_bytes: bytes that may be on the device at a time.
      fill_seconds: seconds that filling took in this process.
      row_seconds: seconds for a row, without the first ones, which wait for the compilation; 0 if that is not known.
    """

    rows: Rows
    store: Store
    compute: Callable[[np.ndarray, tuple[str, ...]], Mapping[str, jax.Array]]
    device_bytes: float
    fill_seconds: float = 0.0
    row_seconds: float = 0.0
    _on_device: tuple[Any, Any] | None = None

    def has(self, network: AugmentedNetwork, start: int) -> bool:
        """Return whether what layer group `start` reads is kept."""
        return all(name in self.store.arrays for name in jax.tree.leaves(cut_names(network, start)))

    def nearest(self, network: AugmentedNetwork, depth: int) -> int:
        """Return the highest cut at or below `depth` that is kept; 0 if none is."""
        return max((start for start in range(1, depth + 1) if self.has(network, start)), default=0)

    def fill(self, say: Callable[[int, int, float], None] | None = None) -> None:
        """Compute what is missing; an interrupted start loses at most the last 20 seconds.

        Args:
          say: called about every second with the rows done, all rows, and the seconds so far.
        """
        todo, names = list(self.store.missing()), tuple(self.store.arrays)
        if not todo or not names:
            return
        # Each device works on a block of its own.
        together = jax.local_device_count() if len(todo) >= jax.local_device_count() else 1
        groups = [todo[i : i + together] for i in range(0, len(todo), together)]
        started = told = flushed = first_done = time.monotonic()
        done = 0
        with self.rows.decoders() as decoders:
            # The next blocks are decoded while the devices work on these.
            decoded = one_ahead(functools.partial(self._blocks, decoders=decoders, together=together), groups)
            for group, images in zip(groups, decoded, strict=True):
                made: dict[str, jax.Array | np.ndarray] = dict(self.compute(images, names))
                if IMAGES in names:
                    made[IMAGES] = images
                arrays = {name: np.asarray(made[name]) for name in names}
                for number, (first, stop) in enumerate(group):
                    begin = number * BLOCK
                    self.store.put(first, {name: x[begin : begin + stop - first] for name, x in arrays.items()})
                done += len(group)
                now = time.monotonic()
                first_done = now if done == len(group) else first_done
                if say and (now - told > 1 or done == len(todo)):
                    told = now
                    say(done * BLOCK, len(todo) * BLOCK, now - started)
                if now - flushed > 20:
                    flushed = now
                    self.store.flush()
        self.store.flush()
        self.fill_seconds += time.monotonic() - started
        if done > together:
            self.row_seconds = (time.monotonic() - first_done) / ((done - together) * BLOCK)

    def _blocks(self, group: Sequence[tuple[int, int]], *, decoders: ThreadPoolExecutor, together: int) -> np.ndarray:
        # Always the same size, so that it compiles only once.
        rows = [np.resize(np.arange(*block), BLOCK) for block in group]
        return self.rows.images(np.resize(np.concatenate(rows), BLOCK * together), decoders)

    def fits(self, network: AugmentedNetwork, start: int) -> bool:
        """Return whether what layer group `start` reads is kept and fits into the device's share."""
        return (
            self.has(network, start)
            and sum(self.store.arrays[name].nbytes for name in jax.tree.leaves(cut_names(network, start)))
            <= self.device_bytes
        )

    def pool(self, network: AugmentedNetwork, start: int, place: Callable[[Any], Any]) -> Any:
        """Return all rows of what layer group `start` reads, on the device; the latest such pool stays there.

        Args:
          network: whose layer group it is.
          start: index of the layer group.
          place: puts host arrays on the device.
        """
        names = cut_names(network, start)
        if self._on_device is None or self._on_device[0] != names:
            self._on_device = None  # Free it first: there is room for only one.
            self._on_device = names, place({"inputs": jax.tree.map(self.store.arrays.__getitem__, names)})
        return self._on_device[1]

    def leave_host(self) -> None:
        """Keep no arrays but those of the pool on the device."""
        self.store.arrays = {}

    def gather(
        self, network: AugmentedNetwork, start: int, rows: np.ndarray, decoders: ThreadPoolExecutor | None
    ) -> Any:
        """Return what layer group `start` reads for rows int [...], as a tree of host arrays [..., ...]."""
        if not self.has(network, start):
            assert decoders is not None, "images are decoded"
            flat = self.rows.images(rows.reshape(-1), decoders)
            return flat.reshape(*rows.shape, *flat.shape[1:])
        return jax.tree.map(lambda name: self.store.arrays[name][rows], cut_names(network, start))


def row_shapes(
    model: Any, preprocessing: Any, names: Sequence[str], dtype: str
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return (shape of a row, dtype) of each name."""
    size = preprocessing.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))
    shapes = jax.eval_shape(
        functools.partial(outputs, model, names=names, preprocessing=preprocessing), variables, image
    )
    found = {name: (tuple(shape.shape[1:]), dtype) for name, shape in shapes.items()}
    return found | ({IMAGES: ((size, size, 3), "uint8")} if IMAGES in names else {})


def choose(shapes: Mapping[str, tuple[tuple[int, ...], Any]], rows: int, budget: float) -> list[str]:
    """Return the names of the arrays that fit into a budget in bytes, the smallest first."""

    def size(name: str) -> int:
        return int(np.prod(shapes[name][0])) * jnp.dtype(shapes[name][1]).itemsize * rows

    kept, used = [], 0
    for name in sorted(shapes, key=lambda name: (size(name), name)):
        if used + size(name) <= budget:
            kept.append(name)
            used += size(name)
    return kept


def open_activations(
    rows: Rows,
    model: Any,
    variables: Any,
    preprocessing: Any,
    names: Sequence[str],
    *,
    place: str,
    budget: float,
    device_bytes: float,
    dtype: str,
    key: str,
    folder: Path | None,
    section: str = "study",
) -> Activations:
    """Open the activations of some rows; nothing is computed before `Activations.fill`.

    Args:
      rows: which images in which views.
      model: the source network.
      variables: its variables.
      preprocessing: of the images.
      names: of the arrays that may be kept; the smallest are kept, as many as fit.
      place: `file`, `memory` or `none`.
      budget: bytes that may be kept.
      device_bytes: bytes that may be on the device at a time.
      dtype: of the kept activations: float32 or bfloat16.
      key: of all that the activations depend on besides `rows.key`, such as the weights and the code.
      folder: where files are.
      section: of the configuration that has the settings of this cache, for error messages.
    """
    shapes = row_shapes(model, preprocessing, names, dtype)
    kept = choose(shapes, len(rows), budget) if place != "none" else []
    # A later start may need other arrays of the same folder: each array has its own file and checksums.
    store = Store(
        {name: shapes[name] for name in kept},
        len(rows),
        f"{key}-{rows.key}-{dtype}",
        folder if place == "file" and kept else None,
        section,
    )

    return Activations(
        rows, store, functools.partial(_compiled(model, preprocessing, dtype), variables), min(device_bytes, 2**62)
    )


@functools.lru_cache(maxsize=8)  # The splits of a run share a compilation.
def _compiled(model: Any, preprocessing: Any, dtype: str) -> Callable[..., Any]:
    """Return a compiled (variables, images, names) -> arrays by name; the local devices share large batches."""

    def forward(variables, images, names):
        found = outputs(model, variables, images, [name for name in names if name != IMAGES], preprocessing)
        return {name: x.astype(dtype) for name, x in found.items()}

    alone, devices = jax.jit(forward, static_argnums=2), jax.local_devices()
    mesh, rows = Mesh(devices, ("devices",)), PartitionSpec("devices")

    @functools.partial(jax.jit, static_argnums=2)
    def shared(variables, images, names):
        # Each device computes a batch of the usual size, and so with the usual convolutions.
        return jax.shard_map(
            lambda variables, images: forward(variables, images, names),
            mesh=mesh,
            in_specs=(PartitionSpec(), rows),
            out_specs=rows,
            check_vma=False,
        )(variables, images)

    def compute(variables, images, names):
        return (shared if len(images) == BLOCK * len(devices) > BLOCK else alone)(variables, images, names)

    return compute
