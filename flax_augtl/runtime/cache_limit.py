"""Keep the package's cache folder below a size, by removing what was not used for the longest time."""

import os
from pathlib import Path

# What is used within a day is never removed: another program may be reading it.
RECENT = 24 * 3600.0
VARIABLE = "FLAX_AUGTL_CACHE_GB"
GIGABYTES = 20.0


def limit() -> float:
    """Return the limit in bytes: of the environment variable `FLAX_AUGTL_CACHE_GB`, else 20 gigabytes."""
    try:
        return 1e9 * float(os.environ.get(VARIABLE, GIGABYTES))
    except ValueError:
        return 1e9 * GIGABYTES


def trim(folder: Path, most: float, now: float) -> list[Path]:
    """Remove the files that were not used for the longest time until the rest fits; return the removed ones.

    Args:
      folder: the cache folder.
      most: bytes that may stay.
      now: seconds since the epoch; files that were used in the day before stay.
    """
    found: list[tuple[float, int, Path]] = []
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where) / name
            try:
                status = path.lstat()
            except OSError:
                continue  # Another program removed it.
            found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    size, removed = sum(bytes_ for _, bytes_, _ in found), []
    for used, bytes_, path in sorted(found):
        if size <= most or used > now - RECENT:
            break
        try:
            path.unlink(missing_ok=True)
        except OSError:
            continue  # It belongs to another user, say.
        size -= bytes_
        removed.append(path)
    return removed
