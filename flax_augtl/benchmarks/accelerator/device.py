"""Part a: what the machine is, and what its device can do at most."""

import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.benchmarks.accelerator.runner import Context

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow", "torch", "torchvision")
PEAK = "largest product"


def run(context: Context) -> None:
    """Measure."""
    record = context.results
    devices = jax.devices()
    with record.case("machine"):
        record.row(
            "machine",
            device=devices[0].device_kind,
            platform=jax.default_backend(),
            devices=len(devices),
            memory_gb=_memory(devices[0]),
            driver=_driver(),
            cores=os.cpu_count(),
            python=platform.python_version(),
            load=os.getloadavg()[0],
        )
        record.row("versions", **{name: _version(name) for name in LIBRARIES})
    for dtype, precision in (("bfloat16", "default"), ("float32", "tensorfloat32"), ("float32", "highest")):
        with record.case(f"{PEAK}, {dtype} {precision}"):
            rate = product(context.sizes.matrix, dtype, precision)
            record.row(f"{PEAK}, {dtype} {precision}", rows=context.sizes.matrix, tflops=rate / 1e12)
    with record.case("memory bandwidth"):
        rate = bandwidth(context.sizes.vector)
        record.row("memory bandwidth", megabytes=context.sizes.vector, gb_per_second=rate / 1e9)
    with record.case("transfer"):
        there, back = transfer(context.sizes.vector)
        record.row(
            "transfer",
            megabytes=context.sizes.vector,
            to_device_gb_per_second=there / 1e9,
            from_device_gb_per_second=back / 1e9,
        )


def product(rows: int, dtype: str, precision: str) -> float:
    """Return the operations a second of the product of two square matrices."""
    count = 8
    a = jnp.ones((rows, rows), dtype) / rows

    @jax.jit
    def chain(a, x):
        return jax.lax.fori_loop(0, count, lambda _, x: jnp.dot(a, x, precision=precision), x)

    return count * 2 * rows**3 / seconds(lambda: chain(a, a))


def bandwidth(megabytes: int) -> float:
    """Return the bytes a second that a sum of two arrays reads and writes."""
    x, y = (jnp.full(megabytes * 1_000_000 // 4, value, jnp.float32) for value in (1, 2))
    add = jax.jit(jnp.add)
    return 3 * x.nbytes / seconds(lambda: add(x, y))


def transfer(megabytes: int) -> tuple[float, float]:
    """Return the bytes a second from the host's memory to the device's, and back."""
    x = np.ones(megabytes * 1_000_000, np.uint8)
    there = x.nbytes / seconds(lambda: jax.device_put(x))
    placed = [jax.device_put(x) + np.uint8(i) for i in range(3)]  # An array's copy on the host is kept.
    back = []
    for each in placed:
        jax.block_until_ready(each)
        begun = time.perf_counter()
        np.asarray(each)
        back.append(time.perf_counter() - begun)
    return there, x.nbytes / min(back)


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Return the median duration of a call, after a first one."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def peak_of(rows: list[dict[str, Any]], dtype: str) -> float | None:
    """Return the operations a second that part a measured for a dtype, if it did; float32 as training runs it."""
    precision = "default" if dtype == "bfloat16" else "tensorfloat32"
    found = [row["tflops"] for row in rows if row["case"] == f"{PEAK}, {dtype} {precision}" and "tflops" in row]
    return found[-1] * 1e12 if found else None


def _memory(device: Any) -> float | None:
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] / 1e9 if "bytes_limit" in stats else None


def _driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=30)
    return found.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
