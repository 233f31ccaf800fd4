"""Where kept activations are stored, on what they depend, and how several workers fill a cache only once."""

import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

import flax_augtl
from flax_augtl.config.value_types import is_a
from flax_augtl.data.types import fingerprint
from flax_augtl.features.activations import Activations
from flax_augtl.runtime.text import duration
from flax_augtl.workdir import files

# The activations depend on the text of these files and folders of the package.
_CODE = ("models", "data", "features")


class Lock(Protocol):
    """A lock that several workers share, so that only one of them fills a cache."""

    def take(self, name: str) -> bool:
        """Try to lock a name; return whether this worker now holds it."""
        ...

    def release(self, name: str) -> None:
        """Unlock a name."""
        ...


def place_of(setting: str, folder: Path, gigabytes: float) -> str:
    """Return where activations are kept: `file`, `memory` or `none`.

    For `auto` it is `file` if the disk has room for twice the budget, else `memory`.

    Args:
      setting: config.study.cache.
      folder: on the disk in question.
      gigabytes: the budget.
    """
    if setting != "auto":
        return setting
    return "file" if shutil.disk_usage(folder).free > 2e9 * gigabytes else "memory"


def cache_key(variables: Mapping[str, Any], network: str, settings: Any, compute_dtype: str) -> str:
    """Return a key of everything that the activations of an image depend on besides the image.

    Args:
      variables: of the source network.
      network: its name.
      settings: the fields of its module.
      compute_dtype: of the forward pass.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    weights = fingerprint(digest.hexdigest(), network, settings, compute_dtype)
    return f"{weights}-{_code_key()}-{jax.__version__}"


@functools.cache
def _code_key() -> str:
    root, digest = Path(flax_augtl.__file__).parent, hashlib.blake2b(digest_size=8)
    for part in _CODE:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def fill_seconds(folder: Path) -> float:
    """Return the seconds that filling the caches of a study took, summed over all starts."""
    return sum(_seconds(path) for path in folder.glob("fill-*.json"))


def _seconds(path: Path) -> float:
    found = files.read_json(path) if path.exists() else None
    return float(found["seconds"]) if isinstance(found, Mapping) and is_a(found.get("seconds"), "number") else 0.0


def shown(
    name: str, say: Callable[[str], Any], watch: Callable[[float], None] = lambda left: None
) -> Callable[[int, int, float], None]:
    """Return a function for `Activations.fill` that says every 10 seconds how far it is.

    Args:
      name: of the cache.
      say: called with the sentence.
      watch: called with the remaining seconds, every time.
    """
    last = -10.0

    def progress(done: int, rows: int, seconds: float) -> None:
        nonlocal last
        left = (rows - done) / max(done / max(seconds, 1e-9), 1e-9)
        if seconds - last >= 10 or done >= rows:
            last = seconds
            say(
                f"  activations of {name}: {done}/{rows} images, {done / max(seconds, 1e-9):.0f} a second, "
                f"{duration(left)} left"
            )
        watch(left)

    return progress


def fill(
    activations: Activations,
    lock: Lock,
    name: str,
    reopen: Callable[[], Activations],
    folder: Path,
    watch: Callable[[float], None] = lambda left: None,
) -> Activations:
    """Fill a cache, once for all workers that share its files, and return it.

    Args:
      activations: to fill.
      lock: shared by the workers.
      name: of the cache, for the lock and in messages.
      reopen: opens the cache again, to see what another worker filled.
      folder: of the study.
      watch: called from time to time with the remaining seconds.
    """
    say = shown(name, functools.partial(print, flush=True), watch)
    waited = False
    while next(activations.store.missing(), None) is not None and activations.store.arrays:
        if activations.store.folder is None or lock.take(f"cache-{name}"):
            activations = activations if activations.store.folder is None else reopen()
            activations.fill(say)
            files.write_json(
                folder / f"fill-{name}.json",
                {"seconds": _seconds(folder / f"fill-{name}.json") + activations.fill_seconds},
            )
            lock.release(f"cache-{name}")
            return activations
        if not waited:
            print(f"Waiting for another worker, which computes the activations of {name}.", flush=True)
        waited = True
        time.sleep(2.0)
        activations = reopen()
    return activations
