"""Part d: the steps of part c as PyTorch runs them, where it is installed."""

import contextlib
import gc
import importlib.util
import statistics
import time
from typing import Any

from flax_augtl.benchmarks.accelerator import results
from flax_augtl.benchmarks.accelerator.runner import Context
from flax_augtl.benchmarks.accelerator.sizes import Sizes

NEEDED = 25


def run(context: Context) -> None:
    """Time the steps, compiled; and as they are where they cannot be compiled."""
    if importlib.util.find_spec("torch") is None:
        context.results.row("PyTorch", status="not installed")
        return
    import torch  # pyright: ignore[reportMissingImports]  # Optional.

    from flax_augtl.benchmarks.accelerator.train_step import baseline, cases

    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, as JAX has it.
    rows = results.read(context.results.folder)
    measured = {row["case"] for row in rows if row["part"] == "c" and "images_per_second" in row}
    for case in cases(context.sizes)[: context.sizes.torch_cases]:
        # Without a row of part c there is nothing to compare with; the crop happens before these steps.
        if case.crop != "random" or measured and str(case) not in measured:
            continue
        if not context.enough(str(case), NEEDED):
            return
        ours = baseline(rows, case)
        with context.results.case(str(case)):
            seconds, mode, why = _timed(case, context.sizes)
            speed = case.batch / seconds
            context.results.row(
                str(case),
                torch=torch.__version__,
                mode=mode,
                torch_images_per_second=speed,
                images_per_second=ours,
                ratio=None if ours is None else ours / speed,
                **({"error": why} if why else {}),
            )
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _timed(case: Any, sizes: Sizes) -> tuple[float, str, str]:
    """Return seconds a step, whether it was compiled, and why it was not."""
    import torch  # pyright: ignore[reportMissingImports]  # Optional.

    try:
        return step_seconds(case, sizes, compiled=True), "compiled", ""
    except Exception as error:  # Such as a machine without a C++ compiler, which the compiler needs on a CPU.
        lines = str(error).strip().splitlines() or [""]
        reason = f"torch.compile failed: {type(error).__name__}: {lines[0]}"
        torch.compiler.reset()
        return step_seconds(case, sizes, compiled=False), "eager", reason


def step_seconds(case: Any, sizes: Sizes, *, compiled: bool) -> float:
    """Time a step: the same layers frozen, the same batch, channels last, images that are on the device.

    The frozen layers run without gradient and in evaluation mode; bfloat16 is autocast; SGD has Nesterov momentum.
    """
    import torch  # pyright: ignore[reportMissingImports]  # Optional.

    from flax_augtl.benchmarks.accelerator.torch_networks import layer_groups
    from flax_augtl.benchmarks.accelerator.workload import CLASSES

    device = "cuda" if torch.cuda.is_available() else "cpu"
    groups = layer_groups(case.network, CLASSES, **sizes.variants.get(case.network, {}))
    names = [*groups]
    edge = {"none": 0, "all": len(names) - 1}.get(case.depth)
    edge = names.index(case.depth) + 1 if edge is None else edge
    prefix, suffix = (torch.nn.Sequential(*(groups[name] for name in some)) for some in (names[:edge], names[edge:]))
    prefix, suffix = (part.to(device, memory_format=torch.channels_last) for part in (prefix, suffix))
    prefix.eval().requires_grad_(False)
    suffix.train()
    optimizer = torch.optim.SGD(suffix.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    side = sizes.image_size
    images = torch.randn(case.batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (case.batch,), device=device)

    def forward(images, labels):
        with torch.no_grad():
            x = prefix(images)
        return torch.nn.functional.cross_entropy(suffix(x).float(), labels)

    loss_of = torch.compile(forward) if compiled else forward

    def step():
        cast = torch.autocast(device, torch.bfloat16) if case.dtype == "bfloat16" else contextlib.nullcontext()
        with cast:
            loss = loss_of(images, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    wait()
    times = []
    for _ in range(sizes.repeats):
        begun = time.perf_counter()
        for _ in range(sizes.steps):
            step()
        wait()
        times.append((time.perf_counter() - begun) / sizes.steps)
    return statistics.median(times)
