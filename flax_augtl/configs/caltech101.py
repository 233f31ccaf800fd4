"""The study on Caltech-101, from list files: which layers to freeze, and whether the classification layer should stay.

    python main.py --config=configs/caltech101.py --config.weights=resnet18.safetensors --mode=study \\
        --workdir=runs/caltech101

expects caltech101/images, caltech101/train.txt and caltech101/test.txt.

The results are in docs/results.md.
"""

from typing import Any

from flax_augtl.configs import common


def get_config() -> Any:
    """Return the configuration."""
    config = common.get_config()
    config.name = "caltech101"
    config.network = "resnet18"
    config.weights = "timm/resnet18.tv_in1k"
    config.data.name = "list"
    config.data.root = "caltech101/images"
    config.data.train_list = "caltech101/train.txt"
    config.data.test_list = "caltech101/test.txt"
    config.data.metric = "mean_per_class"
    config.data.shots = 5
    config.batch_size = 32
    config.epochs = 10.0
    config.learning_rate = 0.001
    config.study.preset = "controls"
    config.study.heads = ("kept_deeper2",)
    config.study.depths = ("layer4", "all")
    config.study.finals = "depths"
    config.study.views = 2
    return config
