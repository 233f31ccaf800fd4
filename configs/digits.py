"""The embedded default: from printed characters to handwritten digits, 10 examples a class.

    python main.py --config=configs/digits.py --workdir=runs/digits
"""

from ml_collections import ConfigDict

from configs import common


def get_config():
    """Return the configuration."""
    config = common.get_config()
    config.name = "digits"
    config.network = "resnet20"
    config.weights = "embedded:glyphs"
    config.data.name = "digits"
    config.data.shots = 10
    config.data.crop = "none"
    config.data.flip = False
    config.data.shift = 1
    config.image_size = 16
    config.batch_size = 32
    config.steps = 120
    config.evaluate_every_steps = 20
    config.schedule.warmup_steps = 10
    config.weight_decay = 5e-4
    with config.unlocked():
        config.variants = ConfigDict({
            "kept_deeper": {"head": {"preset": "kept_deeper"}},
            "traditional": {"head": {"preset": "traditional"}},
            "scratch": {"head": {"preset": "traditional"}, "weights": None},
        }, sort_keys=False)
    return config
