"""Train the embedded source network from scratch: a ResNet-20 that tells printed characters apart.

    python main.py --config=configs/glyphs.py --workdir=runs/glyphs
    python main.py --mode=export --workdir=runs/glyphs

gave a test accuracy of 0.9753 (2150 pictures, 215 characters) in 16 minutes on 2 busy cores. The exported file is
flax_augtl/pretrained/glyphs_resnet20.safetensors, which other configurations call "embedded:glyphs".
"""

from typing import Any

from flax_augtl.configs import common


def get_config() -> Any:
    """Return the configuration."""
    config = common.get_config()
    config.name = "glyphs"
    config.network = "resnet20"
    config.image_size = 16
    config.preprocessing.crop_fraction = 1.0
    config.preprocessing.mean = config.preprocessing.std = (0.5, 0.5, 0.5)
    config.data.name = "glyphs"
    config.data.shots = 100
    config.data.validation = 0.05
    config.data.crop = "none"
    config.data.flip = "none"
    config.data.shift = 1
    config.head.preset = "traditional"
    config.batch_size = 128
    config.epochs = 10.0
    config.evaluate_every_epochs = 5.0
    config.learning_rate = 0.1
    config.new_layer_multiplier = 1.0
    config.schedule.warmup_epochs = 1.0
    config.label_smoothing = 0.1
    return config
