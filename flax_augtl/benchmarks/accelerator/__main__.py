"""Measure a machine with an accelerator: `python -m flax_augtl.benchmarks.accelerator [--minutes=8] [--out=FOLDER]`.

Run it from the root of a checkout. The parts come in the order of their importance, each in a process of its own with
its own time limit; a part that fails leaves its traceback in the results, and the next one starts.

    a  devices, versions, largest matrix product and memory bandwidth
    b  correctness on the device: logits, frozen layers, kept features, determinism, resuming, accuracies
    c  the training step: images/s, TFLOP/s, memory, host stall
    d  the same steps in PyTorch, where it is installed
    e  switches: flags of XLA, other batch norms, larger batches, memory fractions
    f  the loader beside torchvision's, and training from JPEG files
    g  the study: kept features, trials together, where the features are
    h  prediction from files

`--tiny` runs all of it on small networks, on a CPU in about two minutes; some parts run beside
others then.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from flax_augtl.benchmarks.accelerator import runner
from flax_augtl.benchmarks.accelerator.parts import PARTS


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 1 if a part failed."""
    parser = argparse.ArgumentParser(
        prog="python -m flax_augtl.benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, help="time for all parts (default: 8; with --tiny 15, it needs 2)")
    parser.add_argument("--out", help="folder of results.jsonl, results.md and logs (default: a new temporary folder)")
    parser.add_argument("--only", default="", help="letters of the parts to run, such as a,c (default: all)")
    parser.add_argument("--tiny", action="store_true", help="small networks and few steps, for a CPU")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # What the runner starts as a child.
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    letters = {part.letter for part in PARTS}
    if unknown := sorted({*options.only.replace(",", "")} - letters):
        choices = ", ".join(sorted(letters))
        parser.error(f"--only={options.only}: there is no part {', '.join(unknown)}. Parts: {choices}.")
    if options.minutes is not None and options.minutes <= 0:
        parser.error(f"--minutes={options.minutes:g} must be above 0.")
    if not (Path("main.py").exists() and Path("configs").is_dir()):
        parser.error(f"main.py and configs/ are not in {Path.cwd()}: run this from the root of a checkout.")
    if options.part:
        return runner.run_part(options.part, options.case, options.out, options.tiny, options.seconds)
    out = options.out or tempfile.mkdtemp(prefix="flax-augtl-accelerator-")
    minutes = options.minutes or (15.0 if options.tiny else 8.0)
    return runner.run(out, minutes, options.only.replace(",", ""), options.tiny)


if __name__ == "__main__":
    sys.exit(main())
