"""The embedded default: from printed characters to handwritten digits, ten examples a class.

    python main.py --config=configs/digits.py --workdir=runs/digits

trains the three variants below, each with the learning rate that validation chose for it, and prints their test
accuracies. The rates were chosen from one grid, and the variants compared over six paired seeds, by

    python main.py --config=configs/digits.py --mode=study --workdir=runs/digits_study

which trained 90 runs to choose, and 18 on training and validation data together to test (35 minutes on 2 busy cores):

    variant      learning rate  steps  test    95 % interval    kept_deeper minus it  95 % interval      p
    kept_deeper  0.003          70     0.9462  0.9377 … 0.9547
    traditional  0.003          47     0.9456  0.9362 … 0.9549  +0.0006               -0.0020 … +0.0032  0.750
    scratch      0.01           103    0.9177  0.8925 … 0.9429  +0.0285               +0.0064 … +0.0506  0.031

Transfer helps; keeping and deepening the classification layer makes no difference here that six seeds can show.
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
    config.study.preset = "paper"
    config.study.heads = ("scratch",)
    config.study.depths = ("none", "layer2", "all")
    config.study.learning_rates = (0.003, 0.01, 0.03)
    config.study.selection_seeds = 2
    with config.unlocked():
        config.variants = ConfigDict({
            "kept_deeper": {"head": {"preset": "kept_deeper"}, "learning_rate": 0.003},
            "traditional": {"head": {"preset": "traditional"}, "learning_rate": 0.003},
            "scratch": {"head": {"preset": "traditional"}, "weights": None, "learning_rate": 0.01},
        }, sort_keys=False)
    return config
