"""The soak test under its earlier name: `python -m flax_augtl.soak`."""

from flax_augtl.benchmarks.soak import main

if __name__ == "__main__":
    raise SystemExit(main())
