"""Measure how long loading a checkpoint onto the device takes, and how much memory.

    python -m flax_augtl.benchmarks.weights [CHECKPOINT …]

Without a checkpoint, random weights of ResNet-50 and VGG-16 are written as safetensors in a temporary folder. Each file
is loaded in a process of its own. The time is that of `load_source`, from the call until every array is on the device:
reading, checking, SHA-256, conversion and transfer. The memory is the growth of anonymous memory (RssAnon, which does
not include mapped files) at its peak, as a fraction of the file size. It needs Linux.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from flax_augtl.errors import UserError
from flax_augtl.runtime.text import columns

NETWORKS = ("resnet50", "vgg16")


def _anonymous_memory() -> int:
    """Return the anonymous resident memory of this process in bytes.

    Raises:
      UserError: the machine does not run Linux.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise UserError("/proc/self/status has no RssAnon: this benchmark needs Linux.")


def measure(path: Path) -> dict[str, float]:
    """Load a checkpoint in this process.

    Returns:
      `seconds`; `processor`, the processor seconds of all threads; `file`, its size in bytes; `memory`, the largest
      growth of memory in bytes.
    """
    import jax
    import jax.numpy as jnp

    from flax_augtl.pretrained import load_source

    # Start JAX first, which is no part of loading.
    jnp.zeros(1).block_until_ready()
    before = peak = _anonymous_memory()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, _anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin, processor = time.perf_counter(), time.process_time()
    try:
        source = load_source(None, path)
        jax.block_until_ready(source.variables)
        seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    finally:
        done.set()
        watcher.join()
    memory = max(peak, _anonymous_memory()) - before
    return {"seconds": seconds, "processor": processor, "file": path.stat().st_size, "memory": memory}


def _write(name: str, folder: Path) -> Path:
    from flax_augtl.pretrained import Preprocessing, load_source, write_safetensors

    path = folder / f"{name}.safetensors"
    write_safetensors(path, name, load_source(name).variables, Preprocessing())
    return path


def _measured_apart(path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "flax_augtl.benchmarks.weights", "--one", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise UserError(run.stderr.strip().splitlines()[-1])
    return json.loads(run.stdout)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", nargs="*", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = [["checkpoint", "MB", "seconds", "CPU s", "memory / file"]]
        try:
            for path in options.checkpoint or [_write(name, Path(folder)) for name in NETWORKS]:
                found = _measured_apart(path)
                rows.append(
                    [
                        path.name,
                        f"{found['file'] / 1e6:.0f}",
                        f"{found['seconds']:.2f}",
                        f"{found['processor']:.2f}",
                        f"{found['memory'] / found['file']:.2f}",
                    ]
                )
                print(f"{path.name}: {rows[-1][2]} s", file=sys.stderr, flush=True)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(columns(rows, align="<>>>>"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
