"""Commands about data: `python -m flax_augtl.data prepare NAME` and `python -m flax_augtl.data benchmark ROOT`."""

import argparse
import sys

from flax_augtl.data.errors import DataError


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
      arguments: of the command line; None for those of this process.

    Returns:
      The exit code: 0 if the command succeeded.
    """
    parser = argparse.ArgumentParser(prog="python -m flax_augtl.data")
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="download and prepare a TFDS dataset as ArrayRecord")
    prepare.add_argument("name", help="as in TFDS, e.g. oxford_flowers102")
    prepare.add_argument("--data_dir", help="folder of the TFDS datasets (default: that of TFDS)")
    benchmark = commands.add_parser("benchmark", help="measure images per second, beside torchvision's loader")
    benchmark.add_argument("root", help="a folder with a sub-folder of images for each class")
    benchmark.add_argument("--image_size", type=int, default=224)
    benchmark.add_argument("--batch_size", type=int, default=64)
    benchmark.add_argument(
        "--workers", type=int, default=None, help="number of threads or worker processes (default: number of cores)"
    )
    benchmark.add_argument("--seconds", type=float, default=5.0, help="how long each measurement takes")
    options = parser.parse_args(arguments)
    try:
        if options.command == "prepare":
            from flax_augtl.data.sources.tfds_prepare import prepare as run

            print(run(options.name, options.data_dir))
        else:
            from flax_augtl.benchmarks.loader import benchmark as run

            print(run(options.root, options.image_size, options.batch_size, options.workers, options.seconds))
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
