"""Part h: predictions of images in files, as `--mode=predict` makes them."""

import tempfile
import time
from pathlib import Path

import flax_augtl
from flax_augtl.benchmarks.accelerator.loading import CLASSES, SIDES, write_images
from flax_augtl.benchmarks.accelerator.runner import Context
from flax_augtl.config.convert import default_config
from flax_augtl.data import dataset_from_files
from flax_augtl.predict import predict_files


def run(context: Context) -> None:
    """Train a network for two steps, and predict with it."""
    sizes = context.sizes
    tiny = sizes.image_size < 100
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        sides = (2 * sizes.image_size, sizes.image_size) if tiny else SIDES
        write_images(root, sizes.predicted, sides)
        paths = sorted(root.rglob("*.jpg"))[:: max(1, sizes.predicted // (8 * CLASSES))]
        data = {"test": 0.25, "validation": 0, "near_copies": "ignore", "on_leak": "warn", "on_conflict": "ignore"}
        dataset = dataset_from_files([(str(path), path.parent.name) for path in paths], data=data)
        config = default_config()
        config.update(
            {
                "name": "predict",
                "network": "resnet20" if tiny else "resnet50",
                "image_size": sizes.image_size,
                "batch_size": 8,
                "steps": 2,
                "evaluate_every_steps": 2,
                "head": {"preset": "traditional"},
                "compute_dtype": sizes.dtypes[0],
            }
        )
        run = flax_augtl.train(config, f"{folder}/run", dataset=dataset, quiet=True)
        seconds = 0.0
        for batch in (32, 256):
            if seconds and not context.enough(f"predict, batches of {batch}", 1.2 * seconds):
                return
            predict_files(run, str(paths[0]), batch_size=batch)
            begun = time.perf_counter()
            rows = predict_files(run, str(root), batch_size=batch)
            seconds = time.perf_counter() - begun
            context.results.row(
                f"predict, batches of {batch}",
                network=config.network,
                files=len(rows),
                seconds=seconds,
                images_per_second=len(rows) / seconds,
            )
