"""The benchmark of weights under its earlier name: `python -m flax_augtl.pretrained.benchmark`."""

from flax_augtl.benchmarks.weights import main

if __name__ == "__main__":
    raise SystemExit(main())
