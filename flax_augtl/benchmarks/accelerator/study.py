"""Part g: the study: kept features, trials together against one after the other, and where the features are."""

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_augtl.benchmarks.accelerator.runner import Context
from flax_augtl.benchmarks.accelerator.sizes import Sizes
from flax_augtl.benchmarks.study_case import CLASSES, striped_images
from flax_augtl.config.convert import default_config, typed
from flax_augtl.features.activations import open_activations
from flax_augtl.features.views import training_rows
from flax_augtl.models import create_model
from flax_augtl.models.initializers import random_variables
from flax_augtl.pretrained import Preprocessing
from flax_augtl.pretrained.save import write_safetensors
from flax_augtl.study.caches import needed
from flax_augtl.study.context import Context as StudyContext
from flax_augtl.study.context import gather
from flax_augtl.study.grid import Trial
from flax_augtl.study.study import study
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.training.pmapped import replicate

NEEDED = 15
GIGABYTES = 1e9


def run(context: Context) -> None:
    """Measure."""
    sizes = context.sizes
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(sizes, folder)
        dataset = striped_images(sizes.study_images // CLASSES, sizes.study_size)
        material = gather(typed(config), {0: dataset, 1: dataset})
        places = (("device", "memory", 8.0), ("memory", "memory", 0.0), ("file", "file", 0.0))
        for number, (name, kind, device_gb) in enumerate(places):
            if not context.enough(f"features in {name}", NEEDED):
                break
            with context.results.case(f"features in {name}"):
                _place(context, material, name, kind, device_gb, Path(folder) / name, trials=number == 0)
        if context.enough("the study", NEEDED):
            with context.results.case("the study"):
                begun, said = time.monotonic(), io.StringIO()
                with contextlib.redirect_stdout(said):
                    found = study(config, f"{folder}/study", datasets={seed: dataset for seed in config.study.seeds})
                seconds = time.monotonic() - begun
                assert found is not None, "this is no dry run"
                failed = sum(bool(row["error"]) for row in found.rows)
                context.results.row(
                    "the study",
                    trials=len(found.rows),
                    failed=failed,
                    seconds=seconds,
                    trials_per_minute=60 * len(found.rows) / seconds,
                )


def configuration(sizes: Sizes, folder: str) -> Any:
    """Return the preset `paper` at the depths layer4 and all, on random weights in a file."""
    model = create_model(sizes.study_network, num_classes=1000)
    top = model.groups[-2]
    weights = f"{folder}/random.safetensors"
    write_safetensors(
        weights,
        sizes.study_network,
        jax.tree.map(np.asarray, random_variables(model)),
        Preprocessing(image_size=sizes.study_size),
    )
    config: Any = default_config()
    config.update(
        {
            "name": "accelerator",
            "network": sizes.study_network,
            "weights": weights,
            "image_size": sizes.study_size,
            "batch_size": 32,
            "steps": 100 if sizes.study_size > 100 else 4,
            "data": {"views": 1},
        }
    )
    config.update({"evaluate_every_steps": config.steps // 2})
    config.study.update(
        {
            "preset": "paper",
            "depths": (top, "all"),
            "seeds": (0, 1),
            "selection_seeds": 2,
            "device_gb": 8.0,
            **sizes.study_changes,
        }
    )
    return config


def _place(
    context: Context, material: StudyContext, name: str, kind: str, device_gb: float, folder: Path, *, trials: bool
) -> None:
    """Fill the features at one place and time a step on them; with `trials` also of several trials together."""
    model, sizes = material.source.model, context.sizes
    rows = training_rows([material.datasets[0]], material.preprocessing, material.config.data)
    names = needed(material)
    head = next(name for name, each in material.grid.heads.items() if each.keep_classifier)
    folder.mkdir()
    kept = open_activations(
        rows,
        model,
        material.source.variables,
        material.preprocessing,
        names,
        place=kind,
        budget=1e3 * GIGABYTES,
        device_bytes=device_gb * GIGABYTES,
        dtype="float32",
        key="",
        folder=folder,
    )
    kept.fill()
    context.results.row(
        f"features in {name}: filling",
        images=len(rows),
        gigabytes=kept.store.bytes / 1e9,
        seconds=kept.fill_seconds,
        images_per_second=len(rows) / kept.fill_seconds,
    )
    for depth in (model.groups[-2], "all"):
        cell = Trial("select", head, depth, "pretrained", 0.01, 0)
        alone = step_seconds(material, kept, [cell])
        values: dict[str, Any] = {"trial_steps_per_second": 1 / alone}
        if trials:
            together = step_seconds(material, kept, [cell] * sizes.study_trials)
            values |= {
                "trials": sizes.study_trials,
                "together": sizes.study_trials / together,
                "ratio": sizes.study_trials * alone / together,
            }
        context.results.row(f"features in {name}: depth {depth}", **values)


def step_seconds(material: StudyContext, kept: Any, cells: list[Trial]) -> float:
    """Return the seconds of one step of some trials together, with the batches that it reads."""
    pack = TrialBatch(material, kept, cells)
    try:
        pack.warm_up()
        states, count = replicate(pack.states), pack.steps_per_call
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            states, losses = pack.run(states, pack.batches(0, count), 0, count)
            jax.block_until_ready(losses)
            times.append((time.perf_counter() - begun) / count)
        return min(times)
    finally:
        pack.close()
