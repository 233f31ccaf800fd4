"""The parts of the benchmark, the most important first."""

from typing import NamedTuple


class Part(NamedTuple):
    """One part, which runs in a process of its own.

    Attributes:
      letter: its name on the command line.
      module: of this package, which has `run(context)`.
      title: its heading in the results.
      share: of the time; what a part leaves goes to those after it.
    """

    letter: str
    module: str
    title: str
    share: float


PARTS = (
    Part("a", "device", "Devices, versions and peaks", 20),
    Part("b", "correctness", "Correctness on the device", 90),
    Part("c", "train_step", "The training step", 140),
    Part("d", "torch_step", "The same steps in PyTorch", 70),
    Part("e", "switches", "Switches, against ResNet-50 with nothing frozen", 90),
    Part("f", "loading", "Loading images", 40),
    Part("g", "study", "The study", 40),
    Part("h", "predict", "Prediction from files", 20),
)
