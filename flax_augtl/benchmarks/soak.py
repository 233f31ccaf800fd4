"""Watch whether a long run grows: `python -m flax_augtl.benchmarks.soak --config=configs/digits.py`.

Checkpoints come every five seconds and an evaluation every minute, far more often than in use; memory, open files
and threads are printed every 15 seconds, when no checkpoint is being written (one takes a dozen files and threads for
as long as that lasts), and compared from the second minute on. Linux only: it reads /proc.
"""

import argparse
import gc
import importlib.util
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from flax_augtl import shipped_configs
from flax_augtl.run import train
from flax_augtl.runtime import malloc, signals
from flax_augtl.variants import variants_of
from flax_augtl.workdir.files import read_metrics

Sample = tuple[float, float, int, int]
# Threads that live while a checkpoint is being written: Orbax's, and that of the checksums.
_WRITING = ("save_finalize", "manifest")
# TensorStore opens more workers under load. It ends idle ones after 20 seconds, but checkpoints come every five.
_ELASTIC = "ts_pool_worker"
# What counts as growth between the first and the last third of the samples. Temporary work adds to memory and files,
# so the minimum is what is kept. A thread that comes and goes changes the minimum of a third, but hardly the median.
_MORE = {"memory, MB": (min, 0.05), "open files": (min, 0.0), "threads": (statistics.median, 0.0)}


def sample(started: float, patience: float = 60.0) -> Sample:
    """Return seconds since `started`, megabytes of memory, open files and threads of this process.

    Threads of TensorStore do not count. Memory is what the program allocated, resident or swapped, without pages of
    files. The C library first gives back freed memory, which would vary by chance. The function waits until no
    checkpoint is being written, but at most `patience` seconds.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until and any(thread.name in _WRITING for thread in threading.enumerate()):
        time.sleep(0.005)
    gc.collect()
    malloc.give_back()
    with open("/proc/self/status") as file:
        kilobytes = {
            name: int(value.split()[0])
            for name, value in (line.split(":") for line in file)
            if name in ("RssAnon", "VmSwap")
        }
    names = thread_names()
    threads = names.total() - names[_ELASTIC]
    return time.monotonic() - started, sum(kilobytes.values()) * 1024 / 1e6, len(os.listdir("/proc/self/fd")), threads


def thread_names() -> Counter[str]:
    """Count the threads of this process by their name in Python, or else in Linux, without the numbers of a pool."""
    python = {thread.native_id: thread.name for thread in threading.enumerate()}
    names: Counter[str] = Counter()
    for number in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{number}/comm") as file:
                names[re.sub(r"[_-]?\d+$", "", python.get(int(number)) or file.read().strip())] += 1
        except (FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
            pass
    return names


def verdict(samples: Sequence[Sample], settled: float = 120.0) -> dict[str, tuple[float, float, bool]]:
    """Return the early and late value of each quantity from `settled` seconds on, and whether it grew.

    A leak grows until the end, but a pool may once open another thread and keep it. Memory may grow by 5 %, as
    allocators do.
    """
    later = [each for each in samples if each[0] >= settled]
    third = max(1, len(later) // 3)
    found = {}
    for column, (name, (typical, share)) in enumerate(_MORE.items(), 1):
        early, middle, late = (
            typical(each[column] for each in part)
            for part in (later[:third], later[len(later) // 2 : -third] or later, later[-third:])
        )
        found[name] = (early, late, late > early * (1 + share) and late > middle)
    return found


def soak(config: ConfigDict, minutes: float, interval: float, workdir: str) -> list[Sample]:
    """Train for some minutes below `workdir`, print samples, and return them."""
    trial: Any = config.copy_and_resolve_references()
    trial.update(
        {
            "steps": 60,
            "evaluate_every_steps": 60,
            "log_every_steps": 10,
            "early_stopping": 0,
            "schedule": {"name": "constant", "warmup_steps": 5},
        }
    )
    train(trial, os.path.join(workdir, "trial"), quiet=True)
    rows = [row for row in read_metrics(os.path.join(workdir, "trial")) if row["split"] == "train"]
    rate = (rows[-1]["step"] - rows[0]["step"]) / (rows[-1]["seconds"] - rows[0]["seconds"])
    longer: Any = trial.copy_and_resolve_references()
    # More steps than the time allows: a signal ends the run.
    longer.update(
        {
            "steps": int(rate * 60 * minutes * 3) + 100,
            "evaluate_every_steps": max(1, int(rate * 60)),
            "checkpoint_every_steps": max(1, int(rate * 5)),
            "log_every_steps": max(1, int(rate)),
        }
    )
    print(
        f"{rate:.1f} steps/s; a checkpoint every {longer.checkpoint_every_steps} steps, an evaluation every "
        f"{longer.evaluate_every_steps}",
        flush=True,
    )
    started, samples, done = time.monotonic(), [], threading.Event()

    def watch() -> None:
        before = None
        while not done.wait(interval):
            samples.append(sample(started))
            names = thread_names()
            new = (
                ""
                if before is None
                else "  new: " * bool(names - before) + ", ".join(sorted((names - before).elements()))
            )
            before = names
            print(
                "{:6.0f} s  {:8.1f} MB  {:4} open files  {:4} threads".format(*samples[-1])
                + f" and {names[_ELASTIC]} of TensorStore"
                + new,
                flush=True,
            )
            if samples[-1][0] >= 60 * minutes:
                return signals.request()

    watcher = threading.Thread(target=watch, daemon=True)
    gc.collect()
    with signals.handled():
        watcher.start()
        try:
            train(longer, os.path.join(workdir, "run"), quiet=True)
        except signals.Interrupted:
            pass
        finally:
            done.set()
            watcher.join()
    rows = read_metrics(os.path.join(workdir, "run"))
    steps = max(row["step"] for row in rows)
    print(
        f"{steps} steps, {steps // longer.checkpoint_every_steps} checkpoints, "
        f"{sum(row['split'] == 'val' for row in rows)} evaluations"
    )
    return samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if anything grew, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m flax_augtl.benchmarks.soak", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--config", default="configs/digits.py", help="a configuration; of variants, the first is taken"
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--interval", type=float, default=15.0, help="seconds between two samples")
    options = parser.parse_args(arguments)
    malloc.limit_heaps()  # As main.py does.
    if "" not in sys.path:
        sys.path.insert(0, "")  # A configuration imports its neighbours, as with main.py.
    spec = importlib.util.spec_from_file_location("soak_config", shipped_configs.path_of(options.config))
    assert spec is not None and spec.loader is not None, "the path of a configuration ends with .py"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if config.variants:
        config = next(iter(variants_of(config).values()))
    with tempfile.TemporaryDirectory() as workdir:
        samples = soak(config, options.minutes, options.interval, workdir)
    grown = False
    for name, (early, late, more) in verdict(samples, min(120.0, options.minutes * 12)).items():
        print(f"{name:12} {early:8.1f} → {late:8.1f}  {'GREW' if more else 'did not grow'}")
        grown |= more
    return int(grown)


if __name__ == "__main__":
    sys.exit(main())
