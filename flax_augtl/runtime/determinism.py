"""`config.deterministic`: the same bits in every run, also on a GPU, where XLA's fastest kernels add in any order.

XLA reads its flags once, when JAX starts, so this module does not import JAX before. CPUs and TPUs need no flags.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import absolute, is_remote

# Options of `jax.jit` and of `lower().compile()`. XLA then takes the first kernel that fits, instead of the one that it
# measures to be the fastest, and adds in a fixed order.
OPTIONS: Mapping[str, Any] = {"xla_gpu_deterministic_ops": True}
# Folder of a run with the remaining choices of XLA's autotuner, so that a restart makes the same choices.
AUTOTUNED = "autotuned"
_DIRECTORY = "xla_gpu_per_fusion_autotune_cache_dir"
_ON = re.compile(r"--xla_gpu_(deterministic_ops|exclude_nondeterministic_ops)(=true|=1)?(\s|$)", re.IGNORECASE)
# JAX's plugins for GPUs; JAX uses no GPU without one of them.
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "jax_rocm7_plugin")


def is_on() -> bool:
    """Return whether XLA was told to use deterministic kernels only."""
    return bool(_ON.search(os.environ.get("XLA_FLAGS", "")))


def start(workdir: os.PathLike | str) -> None:
    """Make XLA use deterministic kernels; call this before anything uses JAX.

    Args:
      workdir: directory of the run that starts. Later runs of the same process share its autotuning results.

    Raises:
      UserError: JAX has already started on a GPU, without these flags.
    """
    if is_on() or not gpu_expected():
        return
    if has_started():
        import jax

        if jax.default_backend() != "gpu":
            return
        raise UserError(
            "config.deterministic=True came too late: this process has already used JAX, and XLA reads its "
            "flags when JAX starts. Call flax_augtl.train before anything else that uses JAX, or set the "
            "environment variable XLA_FLAGS=--xla_gpu_deterministic_ops=true before Python starts."
        )
    flags = {**OPTIONS, **_autotuning(workdir)}
    words = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in flags.items()]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *words]).strip()
    if len(flags) > len(OPTIONS):
        # JAX would replace the run's folder by one of its own.
        import jax

        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _autotuning(workdir: os.PathLike | str) -> dict[str, str]:
    """Return the flag that keeps autotuning results in a run directory, and create their folder, if that is possible."""
    folder = Path(absolute(workdir)) / AUTOTUNED
    if is_remote(absolute(workdir)) or re.search(r"\s", str(folder)):
        return {}  # XLA writes local files only, and separates its flags by spaces.
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}  # Training will report that the workdir cannot be written.
    return {_DIRECTORY: str(folder)}


def gpu_expected() -> bool:
    """Return whether JAX may use a GPU, as far as this is known before it starts."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu", "rocm"} & {*platforms.split(",")}:
        return False
    return any(importlib.util.find_spec(name) for name in _PLUGINS)


def has_started() -> bool:
    """Return whether JAX has started in this process, that is, has found its devices and read XLA's flags."""
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge  # JAX has no public way to ask without starting.

    return xla_bridge.backends_are_initialized()
