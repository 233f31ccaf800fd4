r"""The paper's experiment, as far as its abstract tells: networks (a) to (d) at every freeze depth, with both norms.

    python main.py --mode=study --config=configs/paper.py:alexnet,oxford_flowers102 \
        --config.weights=alexnet-owt-7be5be79.pth --workdir=runs/paper_alexnet_flowers

The argument names the network, alexnet or vgg16 in the paper, and the data. Fine-grained: oxford_flowers102,
caltech_birds2011, stanford_dogs, oxford_iiit_pet. Coarse: caltech101, caltech256. All but caltech256 are read with TFDS;
caltech256 is a folder with a sub-folder for each class.

With --dry_run it prints what the study costs on this machine, and needs neither weights nor data. It is a study for a GPU:
30 heads, each at up to nine depths. On a CPU, leave out the depths that train convolutions:
--config.study.depths="('conv5','fc6','fc7','all')". What is the paper's and what is ours: docs/study.md.
"""

from typing import Any

from ml_collections import ConfigDict

from flax_augtl.configs import common
from flax_augtl.errors import UserError

EXAMPLE = "alexnet,oxford_flowers102"
FINE = ("oxford_flowers102", "caltech_birds2011", "stanford_dogs", "oxford_iiit_pet")
COARSE = ("caltech101", "caltech256")


def get_config(words: str = EXAMPLE) -> Any:
    """Return the configuration.

    Args:
      words: the network and the data, separated by a comma.

    Raises:
      UserError: the words are not understood.
    """
    network, _, data = words.partition(",")
    if data not in (*FINE, *COARSE):
        raise UserError(
            f"--config=configs/paper.py:{words} is not understood. Write NETWORK,DATA, such as {EXAMPLE}. "
            f"Fine-grained data: {', '.join(FINE)}; coarse data: {', '.join(COARSE)}."
        )
    config = common.get_config()
    config.name = f"paper_{network}_{data}"
    config.network = network
    config.weights = f"{network}.pth"
    config.data.name = "folder" if data == "caltech256" else data
    if data == "caltech256":
        config.data.root = data
    if data != "stanford_dogs" and data != "caltech_birds2011":
        config.data.metric = "mean_per_class"
    config.batch_size = 32
    config.epochs = 20.0
    config.schedule.warmup_epochs = 1.0
    # Networks (a) to (d) at every depth, (c) with three widths.
    config.study.preset = "paper"
    with config.unlocked():
        config.study.own_heads = ConfigDict(
            {
                "kept_deeper_512": {"preset": "kept_deeper", "new_layers": (512,)},
                "kept_deeper_4096": {"preset": "kept_deeper", "new_layers": (4096,)},
            },
            sort_keys=False,
        )
    # Each without a norm, with both norms of the paper, and with a small, the usual and a large scale.
    config.study.norms = ("none", "l2", "batch")
    config.study.scales = (1.0, 10.0, 40.0)
    # Few seeds and short trainings find the rates; six seeds test.
    config.study.search = "halving"
    config.study.selection_seeds = 2
    config.study.finals = "winners"
    return config
