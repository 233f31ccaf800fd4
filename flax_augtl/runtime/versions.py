"""The versions of the libraries that decide a result, and the device."""

import os
import platform
from importlib import metadata

import jax

_NAMES = ("flax_augtl", "jax", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Return the versions of Python and the libraries, and a description of the device."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _NAMES},
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
    }


def _version(name: str) -> str:
    """Return the version of a package; main.py also runs from a checkout that is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
