"""The small study that the benchmark runs, and its memory in a process of its own."""

import contextlib
import io
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flax_augtl.config.convert import default_config
from flax_augtl.data import Dataset, dataset_from_arrays
from flax_augtl.study.result import StudyResult
from flax_augtl.study.study import study

CLASSES = 8


def striped_images(per_class: int, image_size: int) -> Dataset:
    """Return a dataset whose classes differ by a colour and a stripe, with noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), per_class)
    images = rng.integers(0, 160, (len(labels), image_size, image_size, 3))
    for image, label in zip(images, labels, strict=True):
        image[label * image_size // CLASSES :][: image_size // CLASSES, :, label % 3] += 95
    images = images.astype(np.uint8)
    test = len(labels) // 4
    order = rng.permutation(len(labels))
    return dataset_from_arrays(
        images[order[test:]],
        labels[order[test:]].tolist(),
        data={"validation": 0.25},
        test=(images[order[:test]], labels[order[:test]].tolist()),
    )


def configuration(network: str, weights: str, image_size: int, batch_size: int) -> ConfigDict:
    """Return the configuration of the study that is measured."""
    config: Any = default_config()
    config.update(
        {
            "name": "benchmark",
            "network": network,
            "weights": weights,
            "image_size": image_size,
            "batch_size": batch_size,
            "steps": 20,
            "evaluate_every_steps": 20,
            "data": {"views": 1},
        }
    )
    config.study.update(
        {"preset": "", "heads": ("traditional", "kept"), "seeds": (0,), "learning_rates": (0.01,), "together": 1}
    )
    return config


def quietly(config: ConfigDict, workdir: Path, dataset: Dataset) -> StudyResult:
    """Run a study without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        result = study(config, workdir, datasets={0: dataset})
    assert result is not None, "it is no dry run"
    return result


def peak_of_study(config: ConfigDict, changes: dict[str, Any], workdir: Path) -> float:
    """Return the largest resident memory, in MB, of a study in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_peak_here, config.to_json(), changes, workdir).result()


def _peak_here(values: str, changes: dict[str, Any], workdir: Path) -> float:
    given = json.loads(values)
    config: Any = configuration(given["network"], given["weights"], given["image_size"], given["batch_size"])
    # The first steps already need all the memory.
    config.update({"steps": 2, "evaluate_every_steps": 2})
    config.study.update(changes)
    quietly(config, workdir, striped_images(3 * config.batch_size // CLASSES + 8, config.image_size))
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6
