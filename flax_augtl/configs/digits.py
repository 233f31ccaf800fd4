r"""What transfer is worth, on embedded data: from printed characters to handwritten digits, ten images a class.

    python main.py --config=configs/digits.py --workdir=runs/digits

trains the three variants below, with five images a class, and prints their test accuracies. Each has the learning rate and
the length, and scratch the warm-up, that 500 further images preferred (docs/results.md). Which layers to freeze, and which
head, is what

    python main.py --config=configs/digits.py --mode=study --workdir=runs/digits_study --config.data.validation=0.2

asks: 9 minutes on 2 busy CPU cores, with the results in docs/results.md.
"""

from typing import Any

from ml_collections import ConfigDict

from flax_augtl.configs import common


def get_config() -> Any:
    """Return the configuration."""
    config = common.get_config()
    config.name = "digits"
    config.network = "resnet20"
    config.weights = "embedded:glyphs"
    config.data.name = "digits"
    # Five images a class to train, five to validate.
    config.data.shots = 10
    config.data.validation = 0.5
    config.data.crop = "none"
    config.data.flip = "none"
    config.data.shift = 1
    config.image_size = 16
    config.batch_size = 32
    config.steps = 120
    config.evaluate_every_steps = 20
    config.schedule.warmup_steps = 10
    config.study.preset = "paper"
    config.study.heads = ("scratch",)
    config.study.depths = ("none", "layer2", "all")
    config.study.learning_rates = (0.003, 0.01, 0.03)
    config.study.selection_seeds = 2
    with config.unlocked():
        config.variants = ConfigDict(
            {
                "kept_deeper": {"head": {"preset": "kept_deeper"}, "learning_rate": 0.003, "steps": 60},
                "traditional": {"head": {"preset": "traditional"}, "learning_rate": 0.003, "steps": 60},
                "scratch": {
                    "head": {"preset": "traditional"},
                    "weights": None,
                    "learning_rate": 0.01,
                    "steps": 240,
                    "schedule": {"warmup_steps": 40},
                    "evaluate_every_steps": 40,
                },
            },
            sort_keys=False,
        )
    return config
