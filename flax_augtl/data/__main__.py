"""Commands about data: `python -m flax_augtl.data prepare NAME` and `python -m flax_augtl.data benchmark ROOT`."""

import argparse
import sys

from flax_augtl.data.errors import DataError


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command; 0 if it succeeded."""
    parser = argparse.ArgumentParser(prog="python -m flax_augtl.data")
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="put a TFDS dataset on disk, as ArrayRecord")
    prepare.add_argument("name", help="as in TFDS, e.g. oxford_flowers102")
    prepare.add_argument("--data_dir", help="where TFDS datasets are; default TFDS's own")
    benchmark = commands.add_parser("benchmark", help="images a second, beside torchvision's loader")
    benchmark.add_argument("root", help="a folder of images with a sub-folder a class")
    benchmark.add_argument("--image_size", type=int, default=224)
    benchmark.add_argument("--batch_size", type=int, default=64)
    benchmark.add_argument("--workers", type=int, default=None, help="threads or worker processes; default the cores")
    benchmark.add_argument("--seconds", type=float, default=5.0, help="how long to measure each way in each round")
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
