"""Commands about studies: `python -m flax_augtl.study benchmark`."""

import argparse

from flax_augtl.benchmarks.study import benchmark


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flax_augtl.study")
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("benchmark", help="measure how much time keeping activations saves")
    measure.add_argument("--network", default="resnet18")
    measure.add_argument("--image_size", type=int, default=224)
    measure.add_argument("--batch_size", type=int, default=32)
    measure.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    benchmark(options.network, options.image_size, options.batch_size, options.repeats)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
