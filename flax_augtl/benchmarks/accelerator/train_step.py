"""Part c: the training step, with the images on the device."""

import gc
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from flax_augtl.benchmarks.accelerator import device, results
from flax_augtl.benchmarks.accelerator.runner import Context
from flax_augtl.benchmarks.accelerator.sizes import Sizes
from flax_augtl.benchmarks.accelerator.workload import Case, Workload, build, depth_of, timed

DEPTHS = ("none", "layer3", "all")
# Steps that are compiled at once, while nothing is timed.
AHEAD = 4
# Seconds that so many steps may take to be compiled and timed.
NEEDED = 40


def cases(sizes: Sizes) -> list[Case]:
    """Return what is measured, the most important first."""
    first = Case(sizes.networks[0], "none", sizes.dtypes[0], sizes.batches[0])
    found = [
        first,
        *(first._replace(depth=depth) for depth in DEPTHS[1:]),
        first._replace(crop="resized"),
        *(first._replace(network=network) for network in sizes.networks[1:]),
    ]
    if not sizes.whole_product:
        narrow = found[-1]._replace(depth=depth_of(found[-1].network, "layer3"), dtype=sizes.dtypes[1])
        return [*found, narrow._replace(batch=sizes.batches[1])]
    product = itertools.product(sizes.batches, sizes.dtypes, DEPTHS, sizes.networks)
    found += [Case(network, depth, dtype, batch) for batch, dtype, depth, network in product]
    return list(dict.fromkeys(each._replace(depth=depth_of(each.network, each.depth)) for each in found))


def run(context: Context) -> None:
    """Measure, some cases at a time."""
    rows, todo = results.read(context.results.folder), cases(context.sizes)
    for first in range(0, len(todo), AHEAD):
        some = todo[first : first + AHEAD]
        if not context.enough(", ".join(map(str, some)), NEEDED):
            return
        # XLA compiles in threads of its own; several programs at once keep the host's cores busy.
        with ThreadPoolExecutor(AHEAD) as pool:
            built = [pool.submit(_built, case, context.sizes) for case in some]
        for case, each in zip(some, built, strict=True):
            with context.results.case(str(case)):
                workload, compiled = each.result()
                context.results.row(str(case), **measure(case, workload, compiled, context.sizes, rows))
            del each
        built.clear()
        gc.collect()


def _built(case: Case, sizes: Sizes) -> tuple[Workload, Any]:
    workload = build(case, sizes)
    return workload, workload.compile()


def measure(case: Case, workload: Workload, compiled: Any, sizes: Sizes, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Time a compiled step and return the columns of its row.

    Args:
      case: what it is.
      workload: the step.
      compiled: the step, compiled.
      sizes: how long to measure.
      rows: what part a has measured.
    """
    before, found = _peak_bytes(), timed(workload, compiled, sizes)
    analysis = compiled.memory_analysis()
    planned = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    after, rate, peak = _peak_bytes(), workload.flops() / found.step, device.peak_of(rows, case.dtype)
    return {
        "images_per_second": case.batch / found.step,
        "tflops": rate / 1e12,
        "share_of_peak": None if peak is None else rate / peak,
        "planned_gb": planned / 1e9,
        # The device counts its own maximum; it says something of this step only if this step raised it.
        "peak_gb": after / 1e9 if after and after > (before or 0) else None,
        "host_stall": max(0.0, 1 - found.step / found.fed),
        "loss": found.loss,
    }


def _peak_bytes() -> int | None:
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def baseline(rows: list[dict[str, Any]], case: Case) -> float | None:
    """Return the images a second that part c measured for a case, if it did."""
    found = [
        row["images_per_second"]
        for row in rows
        if row["part"] == "c" and row["case"] == str(case) and "images_per_second" in row
    ]
    return found[-1] if found else None
