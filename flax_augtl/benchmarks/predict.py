"""Predict a folder of photographs, as whole processes, against a plain PyTorch script.

    python -m flax_augtl.benchmarks.predict --images=FOLDER --torch_python=VENV/bin/python

A run of ResNet-18 with random weights is made first; like the runs of users, it has a temperature and a familiarity. Then
`--mode=predict` and `torch_predict.py`, with a DataLoader of two worker processes, predict the folder in turns. A row is one
turn: seconds on the clock, seconds of the processors, and their ratios. Other programs on the machine change the first
more than the second. `--one` times the prediction of a single image, with compiled functions in the cache.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES = 10


def photographs(folder: Path, count: int) -> list[Path]:
    """Return up to `count` image files below a folder, the same ones every time."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg") and path.is_file())
    random.Random(0).shuffle(found)
    return sorted(found[:count])


def make_run(workdir: Path, network: str, image_size: int) -> None:
    """Train a run of two steps on noise."""
    import numpy as np

    import flax_augtl
    from flax_augtl.config.convert import default_config
    from flax_augtl.data import dataset_from_arrays

    images = np.random.default_rng(0).integers(0, 256, (8 * CLASSES, 32, 32, 3), np.uint8)
    labels = [f"class {index % CLASSES}" for index in range(len(images))]
    config = default_config()
    config.update(
        {
            "network": network,
            "weights": None,
            "image_size": image_size,
            "freeze": "none",
            "batch_size": 8,
            "steps": 2,
            "head": {"preset": "traditional"},
            "schedule": {"warmup_steps": 0},
            "report": False,
        }
    )
    dataset = dataset_from_arrays(images, labels, data={"validation": 0.25, "test": 0.25, "near_copies": "ignore"})
    flax_augtl.train(config, workdir, dataset=dataset, quiet=True)


def timed(command: list[str]) -> tuple[float, float]:
    """Run a program, and return its seconds on the clock and of the processors, with the processes that it started."""
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds, after = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stderr}")
    return (
        seconds,
        after.children_user + after.children_system - before.children_user - before.children_system,
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=os.environ.get("FLAX_AUGTL_REAL"), help="folder of photographs")
    parser.add_argument("--count", type=int, default=1000, help="of photographs")
    parser.add_argument("--network", default="resnet18", help="PyTorch's is always ResNet-18")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--run", type=Path, help="a run directory, instead of making one")
    parser.add_argument("--torch_python", help="a Python with torch; without it, there is no comparison")
    parser.add_argument("--workers", type=int, default=2, help="of PyTorch's DataLoader")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help="time the prediction of one image only")
    given = parser.parse_args(arguments)
    if given.images is None:
        raise SystemExit("error: name a folder of photographs with --images=FOLDER.")
    with tempfile.TemporaryDirectory() as scratch:
        folder, single = Path(scratch) / "photographs", Path(scratch) / "single"
        paths = photographs(Path(given.images).resolve(), 1 if given.one else given.count)
        if not paths:
            raise SystemExit(f"error: there are no photographs in {given.images}.")
        for place, names in ((folder, paths), (single, paths[:1])):
            place.mkdir()
            for number, path in enumerate(names):
                (place / f"{number:05d}.jpg").symlink_to(path)
        workdir = given.run or Path(scratch) / "run"
        if given.run is None:
            make_run(workdir, given.network, given.image_size)
        program = [sys.executable, "-m", "flax_augtl", "--mode=predict", f"--workdir={workdir}"]
        ours = [*program, f"--images={single if given.one else folder}", f"--output={scratch}/ours.csv"]
        theirs = [
            *(given.torch_python or "", str(Path(__file__).with_name("torch_predict.py")), str(folder)),
            *(f"{scratch}/theirs.csv", f"--classes={CLASSES}", f"--image_size={given.image_size}"),
            f"--workers={given.workers}",
        ]
        timed(ours)  # Fills the compilation cache, and the system's cache of files.
        if given.one:
            found = [timed(ours) for _ in range(given.repeats)]
            for seconds, processors in found:
                print(f"one image: {seconds:.2f} s on the clock, {processors:.2f} s of the processors", flush=True)
            print(f"least: {min(seconds for seconds, _ in found):.2f} s")
            return 0
        print(f"{len(paths)} photographs, {given.network}, {given.image_size} pixels\n")
        print("| turn | this program, s | its processors, s | PyTorch, s | its processors, s | ratio | of processors |")
        print("|---|---|---|---|---|---|---|")
        ratios: list[tuple[float, float]] = []
        for turn in range(1, given.repeats + 1):
            seconds, processors = timed(ours)
            cells = [str(turn), f"{seconds:.1f}", f"{processors:.1f}"]
            if given.torch_python:
                other, others = timed(theirs)
                ratios.append((seconds / other, processors / others))
                cells += [f"{other:.1f}", f"{others:.1f}", *(f"{ratio:.2f}" for ratio in ratios[-1])]
            print("| " + " | ".join([*cells, *[""] * (7 - len(cells))]) + " |", flush=True)
        if ratios:
            wall, used = (statistics.median(values) for values in zip(*ratios, strict=True))
            print(f"\nMedian of the ratios: {wall:.2f} on the clock, {used:.2f} of the processors.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
