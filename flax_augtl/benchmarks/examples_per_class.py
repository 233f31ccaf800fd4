"""Measure the benefit of transfer on the embedded digits: test accuracy against training images per class.

    python -m flax_augtl.benchmarks.examples_per_class --figure=docs/examples_per_class.svg

trains the variants of configs/digits.py with 1, 2, 5, 10 and 20 images per class and five seeds each, prints a table and
draws the figure of the README. Every training uses all its images, without a validation split, and the weights of its
last step. Nothing is chosen, so the test split is read once for each training. Finished trainings are kept in --workdir;
the same command resumes.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

EXAMPLES = (1, 2, 5, 10, 20)
SEEDS = 5
# The colours of Okabe and Ito, which colour-blind people can distinguish.
COLOURS = ("#0072b2", "#d55e00", "#009e73")
RESULTS = "results.jsonl"

# {(variant, images per class): the accuracy of each seed, in the order of the seeds}
Accuracies = Mapping[tuple[str, int], Sequence[float]]


def configuration(variant: ConfigDict, examples: int, seed: int) -> ConfigDict:
    """Return the configuration of one training.

    Args:
      variant: of configs/digits.py.
      examples: training images per class.
      seed: of the choice of images, their order, and the initial new layers.
    """
    config = variant.copy_and_resolve_references()
    config.update({"seed": seed, "data": {"shots": examples, "validation": 0.0}})
    return config


def accuracy(config: ConfigDict) -> float:
    """Train a configuration without a run directory, and return the test accuracy of its last step."""
    from flax_augtl.config.convert import typed
    from flax_augtl.training import loop, metrics
    from flax_augtl.training.evaluation_loop import evaluate
    from flax_augtl.training.experiment import prepare
    from flax_augtl.training.optimizer import create_optimizer
    from flax_augtl.training.progress import Progress
    from flax_augtl.training.state import create_state

    values = typed(config)
    experiment = prepare(values)
    optimizer = create_optimizer(experiment.optimizer, experiment.plan)
    state = create_state(experiment.variables, optimizer, experiment.plan, values.seed)
    state, _ = loop.fit(experiment, state, Progress())
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    sums = evaluate(experiment.network, experiment.preprocessing, variables, experiment.dataset.test, values.data,
                         batch_size=100)  # fmt: skip
    return metrics.summary(sums)["top1"]


def measure(variants: Mapping[str, ConfigDict], examples: Sequence[int], seeds: int, workdir: Path) -> Accuracies:
    """Train what `workdir` lacks, and return all accuracies."""
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / RESULTS
    done = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        row = json.loads(line)
        done[row["config"]] = row["top1"]
    plan = [(seed, name, number) for seed in range(seeds) for name in variants for number in examples]
    found: dict[tuple[str, int], list[float]] = {(name, number): [] for name in variants for number in examples}
    for count, (seed, name, number) in enumerate(plan, 1):
        config, start = configuration(variants[name], number, seed), time.monotonic()
        key = config.to_json(sort_keys=True)
        if key not in done:
            done[key] = accuracy(config)
            row = {"variant": name, "examples": number, "seed": seed, "top1": done[key], "config": key}
            with file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            print(
                f"[{count}/{len(plan)}] {name}, {number} a class, seed {seed}: {done[key]:.3f} "
                f"({time.monotonic() - start:.1f} s)",
                file=sys.stderr,
                flush=True,
            )
        found[name, number].append(done[key])
    return found


def table(found: Accuracies) -> str:
    """Return a Markdown table of the means, with the lowest and the highest seed in brackets, in %."""
    names, numbers = list(dict.fromkeys(name for name, _ in found)), sorted({number for _, number in found})
    lines = ["| images a class | " + " | ".join(f"`{name}`" for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for number in numbers:
        cells = [found[name, number] for name in names]
        shown = [f"{100 * statistics.mean(c):.1f} [{100 * min(c):.1f}, {100 * max(c):.1f}]" for c in cells]
        lines.append(f"| {number} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def draw(found: Accuracies, path: Path) -> None:
    """Draw mean accuracies over the number of images per class, with a band from the lowest to the highest seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    # The same numbers give the same file, and text stays text.
    settings: dict[Any, Any] = {
        "svg.hashsalt": "flax_augtl",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
    }
    with plt.rc_context(settings):
        figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        names = list(dict.fromkeys(name for name, _ in found))
        ticks = sorted({number for _, number in found})
        for name, colour in zip(names, COLOURS, strict=False):
            numbers = sorted(number for other, number in found if other == name)
            cells = [[100 * value for value in found[name, number]] for number in numbers]
            axes.fill_between(numbers, [min(c) for c in cells], [max(c) for c in cells], color=colour, alpha=0.2, lw=0)
            axes.plot(numbers, [statistics.mean(c) for c in cells], "o-", color=colour, ms=4, label=name)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(number) for number in ticks])
        axes.minorticks_off()
        axes.set_xlabel("training images a class")
        axes.set_ylabel("test accuracy in %")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
        plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m flax_augtl.benchmarks.examples_per_class", description=description)
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/examples_per_class"), help="where accuracies are kept"
    )
    parser.add_argument(
        "--figure", type=Path, default=None, help="an SVG or PNG file; by default figure.svg in the workdir"
    )
    parser.add_argument("--examples", type=int, nargs="+", default=list(EXAMPLES), help="training images a class")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds")
    parser.add_argument(
        "--variants", nargs="+", default=None, help="names of variants of configs/digits.py; default: all"
    )
    options = parser.parse_args(arguments)
    variants = _variants()
    if unknown := {*(options.variants or ())} - {*variants}:
        parser.error(f"there is no variant {', '.join(sorted(unknown))}. Variants: {', '.join(variants)}.")
    chosen: dict[str, Any] = {name: variants[name] for name in options.variants or variants}
    start = time.monotonic()
    found = measure(chosen, sorted({*options.examples}), options.seeds, options.workdir)
    path = options.figure or options.workdir / "figure.svg"
    draw(found, path)
    print(f"Test accuracy in %: mean over {options.seeds} seeds [lowest, highest]\n")
    print(f"{table(found)}\n\n{path}, after {time.monotonic() - start:.0f} s")


def _variants() -> dict[str, ConfigDict]:
    """Return the variants of configs/digits.py."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from flax_augtl.configs import digits
    from flax_augtl.variants import variants_of

    return variants_of(digits.get_config())


if __name__ == "__main__":
    main()
