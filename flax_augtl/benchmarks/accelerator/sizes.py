"""How large everything is that is measured: for an accelerator, and `--tiny` for a CPU."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of all parts.

    Attributes:
      image_size, stored_size: pixels a side that networks read, and of stored images.
      variants: settings of networks that differ from the registered ones, by name.
      networks: of the training step.
      batches: of the training step, the first one the larger.
      dtypes: of the training step, the more important first.
      whole_product: measure every network at every depth, batch and dtype.
      torch_cases: steps that PyTorch compiles and runs too; None for all.
      stored_images: on the device.
      steps, repeats: timed steps in a block, and blocks; the median block counts.
      matrix, vector: rows of the matrix product; megabytes of the array that bandwidth is measured with.
      check_steps: steps of the correctness checks.
      main_steps: steps of the main job; None for all.
      larger_batches: of the switches.
      files, predicted: JPEG files for the loader and for prediction.
      loader_seconds: of each way in each round.
      study_images, study_size, study_network, study_trials: of the study.
      study_changes: of its configuration.
    """

    image_size: int = 224
    stored_size: int = 256
    variants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    networks: tuple[str, ...] = ("resnet50", "resnet18", "vgg16")
    batches: tuple[int, ...] = (256, 64)
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    whole_product: bool = True
    torch_cases: int | None = None
    stored_images: int = 1024
    steps: int = 20
    repeats: int = 3
    matrix: int = 8192
    vector: int = 1024
    check_steps: int = 20
    main_steps: int | None = None
    larger_batches: tuple[int, ...] = (512, 1024)
    files: int = 4000
    predicted: int = 20_000
    loader_seconds: float = 2.0
    study_images: int = 5000
    study_size: int = 224
    study_network: str = "resnet50"
    study_trials: int = 16
    study_changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


FULL = Sizes()
_NARROW = {"widths": (4, 4, 8, 8), "stage_sizes": (1, 1, 1, 1)}
TINY = Sizes(
    image_size=32, stored_size=36, networks=("resnet50", "vgg16"), batches=(8, 4), whole_product=False,
    variants={"resnet50": _NARROW, "resnet18": _NARROW,
              "vgg16": {"convs": (1, 1, 1, 1, 1), "widths": (4, 4, 8, 8, 8), "hidden": 16}},
    torch_cases=2, stored_images=32, steps=2, repeats=1, matrix=256, vector=4, check_steps=4, main_steps=12,
    larger_batches=(16,), files=96, predicted=64, loader_seconds=0.1, study_images=128, study_size=16,
    study_network="resnet20", study_trials=3,
    study_changes={"preset": "", "heads": ("kept_deeper",), "seeds": (0,), "selection_seeds": 1, "learning_rates": (0.01,)},
)  # fmt: skip
