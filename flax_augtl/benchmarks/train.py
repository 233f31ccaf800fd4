"""Fine-tune a ResNet-18 on a folder of photographs, with kept features, without, and in a plain PyTorch loop.

    python -m flax_augtl.benchmarks.train --root=FOLDER --weights=FILE --torch_python=VENV/bin/python

FOLDER has train/CLASS/ and val/CLASS/, such as PyTorch's tutorial images of ants and bees. Every training is a process of
its own, with 4 views of each image, an evaluation and a checkpoint after every epoch, and compiled functions in the cache.
A row has seconds on the clock and seconds of the processors; other programs on the machine change the first more than the
second. The PyTorch loop is timed for --torch_epochs epochs, all of which take the same time, and its figures for more are
their multiples. `--only=all` and so on measure some rows.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROWS = ("all", "layer3", "agreement")
LONG, SHORT, LAYER3 = 100, 10, 20


class Took(NamedTuple):
    """Seconds on the clock, and seconds of the processors."""

    clock: float
    processors: float

    def __str__(self) -> str:
        return f"{self.clock:.1f} s, {self.processors:.1f} s"

    def over(self, other: "Took") -> str:
        """Return the ratio to another time, by the clock and by the processors, as text."""
        return f"{self.clock / other.clock:.2f}×, {self.processors / other.processors:.2f}×"

    def times(self, factor: float) -> "Took":
        """Return a multiple."""
        return Took(self.clock * factor, self.processors * factor)


class Run(NamedTuple):
    """A training in a process of its own.

    Attributes:
      took: the whole process.
      training: seconds on the clock of the training and its evaluations, without start-up.
      made: of these, the seconds that making features took.
      compiled: of these, the seconds that compiling the step took.
      log: what it printed.
    """

    took: Took
    training: float
    made: float
    compiled: float
    log: str


def timed(command: Sequence[str], environment: dict[str, str] | None = None) -> tuple[Took, str, str]:
    """Run a program; return how long it took with the processes that it started, and its two outputs."""
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    seconds, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stderr}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(seconds, used), done.stdout, done.stderr


def trained(arguments: Any, workdir: Path, depth: str, epochs: int, *more: str) -> Run:
    """Train in a process of its own."""
    took, _, log = timed(
        [
            *(sys.executable, "-m", "flax_augtl", "--config=configs/folder.py", f"--workdir={workdir}"),
            *(f"--config.data.root={arguments.root}", f"--config.weights={arguments.weights}"),
            *("--config.data.views=4", f"--config.freeze={depth}", f"--config.epochs={epochs}"),
            *("--config.familiarity=False", "--config.report=False", *more),
        ],
        {"XDG_CACHE_HOME": str(arguments.keep)},
    )
    training = json.loads((workdir / "result.json").read_text())["seconds"]
    made, compiled = (
        sum(map(float, re.findall(sentence, log)))
        for sentence in (r"features were made in ([\d.]+) s", r"training step was compiled in ([\d.]+) s")
    )
    return Run(took, training, made, compiled, log)


def torch_epoch(arguments: Any, depth: str) -> Took | None:
    """Return the time of an epoch of the PyTorch loop: the median of those that were timed."""
    if not arguments.torch_python:
        return None
    script = Path(__file__).with_name("torch_train.py")
    _, out, _ = timed(
        [arguments.torch_python, str(script), arguments.root, f"--depth={depth}", f"--epochs={arguments.torch_epochs}"]
    )
    clock, processors = zip(*json.loads(out)["epochs"], strict=True)
    return Took(statistics.median(clock), statistics.median(processors))


def measure_all(arguments: Any, folder: Path) -> None:
    """Print the rows with everything but the head frozen."""
    # It compiles, so that the others find their functions in the cache.
    first = trained(arguments, folder / "first", "all", 2, "--config.features.cache=memory")
    print(f"all: the first process, 2 epochs, nothing compiled: {first.took}", flush=True)
    short = trained(arguments, folder / "short", "all", SHORT)
    long = trained(arguments, folder / "long", "all", LONG)
    print(f"all: {SHORT} epochs, whole process: {short.took}", flush=True)
    print(f"all: {LONG} epochs, whole process: {long.took}; {long.took.over(short.took)}", flush=True)
    inner = short.training - short.compiled
    print(
        f"all: {SHORT} epochs without start-up and compilation {inner:.1f} s, the pass over all views {short.made:.1f} s: "
        f"{inner / short.made:.2f}×",
        flush=True,
    )
    if (epoch := torch_epoch(arguments, "all")) is not None:
        for epochs, ours in ((SHORT, short.took), (LONG, long.took)):
            other = epoch.times(epochs)
            print(f"all: {epochs} epochs in PyTorch: {other}; {other.over(ours)}", flush=True)


def measure_layer3(arguments: Any, folder: Path) -> None:
    """Print the row with everything up to layer3 frozen."""
    trained(arguments, folder / "first3", "layer3", 1, "--config.features.cache=memory")
    ours = trained(arguments, folder / "layer3", "layer3", LAYER3).took
    print(f"layer3: {LAYER3} epochs, whole process: {ours}", flush=True)
    if (epoch := torch_epoch(arguments, "layer3")) is not None:
        other = epoch.times(LAYER3)
        print(f"layer3: {LAYER3} epochs in PyTorch: {other}; {other.over(ours)}", flush=True)


def measure_agreement(arguments: Any, folder: Path) -> None:
    """Print how much the parameters differ after 20 steps on kept features and on images."""
    import jax
    import numpy as np

    from flax_augtl import load_run

    for depth in ("all", "layer3"):
        runs = []
        for cache in ("none", "memory"):
            trained(
                arguments,
                folder / f"{depth}_{cache}",
                depth,
                1,
                f"--config.features.cache={cache}",
                "--config.steps=20",
                "--config.evaluate_every_steps=20",
            )
            runs.append(load_run(folder / f"{depth}_{cache}", step="last").variables["params"])
        worst = max(
            jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), *runs))
        )
        print(f"{depth}: after 20 steps parameters on kept features and on images differ by {worst:.1e}", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of images, with train/CLASS/ and val/CLASS/")
    parser.add_argument("--weights", default="timm/resnet18.tv_in1k", help="of a ResNet-18")
    parser.add_argument("--torch_python", help="a Python that has torch; without it PyTorch is not measured")
    parser.add_argument("--torch_epochs", type=int, default=3)
    parser.add_argument("--only", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores; load {os.getloadavg()[0]:.1f} before. Clock, processors:", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments.keep = Path(folder) / "cache"
        for row in arguments.only.split(","):
            {"all": measure_all, "layer3": measure_layer3, "agreement": measure_agreement}[row](arguments, Path(folder))


if __name__ == "__main__":
    main()
