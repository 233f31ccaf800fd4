"""Time the start of a list of many images: `python -m flax_augtl.benchmarks.list_entries [--entries=10000,100000,1000000]`.

The list names images of 100 classes that do not exist, so no image is scanned (config.data.scan=0). Each row is a process
of its own, which makes the splits and the order of the first epoch.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES = 100


def write_list(file: Path, entries: int) -> None:
    """Write a list of so many images of `CLASSES` classes."""
    with file.open("w") as lines:
        for i in range(entries):
            lines.write(f"class{i % CLASSES:03d}/image_{i:07d}.jpg class{i % CLASSES:03d}\n")


def measure(file: Path) -> dict[str, float]:
    """Load the dataset of a list; return seconds of the processor, peak memory of this process in GB, and sizes."""
    from flax_augtl.data import load_dataset
    from flax_augtl.data.loading.sampler import epoch_order

    before = time.process_time()
    data = {"name": "list", "root": str(file.parent), "train_list": file.name, "scan": 0.0}
    dataset = load_dataset(data, seed=0)
    splits = time.process_time()
    epoch_order(len(dataset.train), 0, 0)
    _ = dataset.train.draw_ids
    return {
        "splits_s": splits - before,
        "order_s": time.process_time() - splits,
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "train": len(dataset.train),
    }


def main() -> None:
    """Print one row for each number of entries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", default="10000,100000,1000000", help="numbers of entries, with commas between")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure))))
        return
    print("| entries | splits, s | order and ids, s | memory, GB |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for entries in map(int, arguments.entries.split(",")):
            write_list(file := Path(folder) / f"{entries}.txt", entries)
            command = [sys.executable, "-m", __spec__.name, f"--measure={file}"]
            row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(
                f"| {entries:,} | {row['splits_s']:.1f} | {row['order_s']:.2f} | {row['memory_gb']:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
