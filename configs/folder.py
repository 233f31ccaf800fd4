"""Fine-tune ResNet-18 on a folder of pictures.

    python main.py --config=configs/folder.py --config.data.root=FOLDER --config.weights=timm/resnet18.tv_in1k \\
        --workdir=runs/folder
"""

from configs import common


def get_config():
    """Return the configuration."""
    config = common.get_config()
    config.name = "folder"
    config.network = "resnet18"
    config.weights = "timm/resnet18.tv_in1k"
    config.data.name = "folder"
    config.head.preset = "kept_deeper"
    # The lower groups are frozen: with few pictures that is seldom worse, and always faster.
    config.freeze = "layer3"
    config.batch_size = 32
    config.epochs = 10.0
    config.learning_rate = 0.001
    config.schedule.warmup_epochs = 1.0
    return config
