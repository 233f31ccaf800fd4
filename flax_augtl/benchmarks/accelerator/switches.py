"""Part e: what could make the step of ResNet-50 faster, each against the step as it is."""

import dataclasses
import gc
from collections.abc import Mapping
from typing import Any

from flax_augtl.benchmarks.accelerator import batch_norms, results, train_step
from flax_augtl.benchmarks.accelerator.runner import Context
from flax_augtl.benchmarks.accelerator.workload import Case, Workload, build
from flax_augtl.models import pooling
from flax_augtl.runtime import determinism

NEEDED = 25
# Options of the compiler, each of which is tried in a process of its own: a compiler that fails may end its process.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "convolution fusion": {"xla_gpu_experimental_enable_conv_fusion": True},
    "deterministic": determinism.OPTIONS,
    "deterministic, autotuned": {"xla_gpu_exclude_nondeterministic_ops": True},
}
# The case of all that needs no process of its own.
TOGETHER = "together"
# Environments, which a process has from its start.
ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {
    "memory fraction 0.95": {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"},
    "memory on demand": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
}


def run(context: Context) -> None:
    """Measure all of them, in processes that come after one another: two would not have room on one device."""
    if context.case == TOGETHER:
        _together(context)
    elif context.case:
        _measure(
            context,
            context.case,
            _first(context),
            options=dict(OPTIONS.get(context.case, {})),
            places="deterministic" in context.case,
        )
    else:
        first, deterministic, *others = OPTIONS
        for name in (first, deterministic, TOGETHER, *others, *ENVIRONMENTS):
            if not context.enough(name, NEEDED):
                return
            seconds = context.left - 2 * NEEDED if name == TOGETHER else 2 * NEEDED
            context.child(name, ENVIRONMENTS.get(name, {}), seconds)


def _first(context: Context) -> Case:
    return Case("resnet50", "none", context.sizes.dtypes[0], context.sizes.batches[0])


def _together(context: Context) -> None:
    """Measure what needs no process of its own."""
    first = _first(context)
    frozen = first._replace(depth="layer3")
    tries: list[tuple[str, Case, dict[str, Any]]] = [
        (f"as it is, {case}", case, {}) for case in (first, frozen) if _known(context, case) is None
    ]
    tries += [
        (f"batch norm: {variant}", first, {"variant": variant})
        for variant in (batch_norms.SHIFTED, batch_norms.BFLOAT16, batch_norms.BOTH)
    ]
    tries += [("frozen batch norm: folded", frozen, {"variant": batch_norms.FOLDED})]
    tries += [(f"batch {size}", first._replace(batch=size), {}) for size in context.sizes.larger_batches]
    tries += [("gradient of max-pooling by places", first, {"places": True})]
    for name, case, settings in tries:
        if not context.enough(name, NEEDED):
            return
        _measure(context, name, case, **settings)
        gc.collect()


def _known(context: Context, case: Case) -> float | None:
    """Return the images a second of a case as it is, if part c or this one has measured it."""
    rows = results.read(context.results.folder)
    return train_step.baseline(rows, case) or next(
        (
            row["images_per_second"]
            for row in reversed(rows)
            if row["case"] == f"as it is, {case}" and "images_per_second" in row
        ),
        None,
    )


def _measure(
    context: Context,
    name: str,
    case: Case,
    *,
    variant: str | None = None,
    options: dict[str, Any] | None = None,
    places: bool = False,
) -> None:
    """Measure a case with a switch, and add its row; `ratio` is to the same case, or batch size, as it is."""
    with context.results.case(name):
        workload = build(case, context.sizes)
        if variant == batch_norms.FOLDED:
            workload = _folded(workload)
        with batch_norms.replaced(variant), pooling.gradient_by_places(places):
            compiled = workload.compile(options)
        found = train_step.measure(case, workload, compiled, context.sizes, [])
        plain = _known(context, case._replace(batch=context.sizes.batches[0]))
        speed = found["images_per_second"]
        ratio = None if plain is None else speed / plain
        context.results.row(
            name,
            step=str(case),
            images_per_second=speed,
            ratio=ratio,
            planned_gb=found["planned_gb"],
            peak_gb=found["peak_gb"],
            loss=found["loss"],
        )


def _folded(workload: Workload) -> Workload:
    plan = workload.plan
    frozen = plan.groups[: plan.depth]
    variables = batch_norms.folded(workload.variables, frozen, workload.network.source.epsilon)
    return dataclasses.replace(workload, variables=variables)
