r"""The evidence of docs/results.md: networks (a) to (d) and every control, on five datasets.

    python main.py --mode=study --config=configs/evidence.py:flowers12,resnet18,5 --config.data.root=flowers12 \
        --config.weights=resnet18.safetensors --workdir=runs/flowers12_resnet18_5

The argument names the dataset, the source network and the images a class. Everything is frozen up to `layer4` or up to the
classification layer. With `,tuned` behind, `layer4` trains as well, with fewer heads and learning rates.

A dataset is a folder with train.txt and test.txt, whose lines are `CLASS/image.jpg`, with or without a label;
hymenoptera, PyTorch's tutorial set, has the folders train/ and val/, and its validation images are the test images.

The protocol is in docs/results.md.
"""

import os
from typing import Any

from flax_augtl.configs import common
from flax_augtl.errors import UserError

DATASETS = ("bloodcells8", "flowers12", "hymenoptera", "aid30", "caltech101")
EXAMPLE = "flowers12,resnet18,5"


def get_config(words: str = EXAMPLE) -> Any:
    """Return the configuration.

    Args:
      words: the dataset, the network and the images a class, separated by commas; `tuned` may follow.

    Raises:
      UserError: the words are not understood.
    """
    dataset, network, shots, *more = words.split(",") if words.count(",") >= 2 else (words, "", "")
    if dataset not in DATASETS or not shots.isdecimal() or int(shots) < 2 or more not in ([], ["tuned"]):
        raise UserError(
            f"--config=configs/evidence.py:{words} is not understood. Write DATASET,NETWORK,IMAGES_A_CLASS, such as "
            f"{EXAMPLE}; the datasets are {', '.join(DATASETS)}. To train layer4 as well, add ,tuned."
        )
    count = int(shots)
    config = common.get_config()
    config.name = words.replace(",", "_")
    config.network = network
    config.weights = f"timm/{network}.tv_in1k"
    config.data.root = dataset
    config.data.name = "folder"
    if dataset != "hymenoptera":
        config.data.name = "list"
        config.data.train_list = os.path.join(dataset, "train.txt")
        config.data.test_list = os.path.join(dataset, "test.txt")
    if dataset == "caltech101":
        config.data.root = os.path.join(dataset, "images")
        config.data.metric = "mean_per_class"
    config.data.shots = count
    # Of five images a class, three train and two choose.
    config.data.validation = 0.4 if count < 10 else 0.2
    config.batch_size = 32
    config.steps = 60 if count < 10 else 120
    config.evaluate_every_steps = config.steps // 12
    config.schedule.warmup_steps = config.steps // 12
    config.study.preset = "controls"
    config.study.heads = ("kept_deeper2",)
    config.study.depths = ("layer4", "all")
    config.study.learning_rates = (0.001, 0.003, 0.01)
    config.study.selection_seeds = 3
    config.study.views = 2
    config.study.together = 1
    if more:
        config.study.preset = ""
        config.study.heads = ("traditional", "traditional_l2", "kept", "kept_deeper")
        config.study.depths = ("layer3", "all")
        config.study.finals = "depths"
        config.study.selection_seeds = 1
    return config
