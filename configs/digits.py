"""Embedded default."""
import importlib
from configs import common

def get_config():
    config = common.get_config()
    config.name = "digits"
    config.network = "resnet20"
    config.data.name = "digits"
    config.data.shots = 10
    config.data.crop = "none"
    config.data.flip = False
    config.data.shift = 2
    config.batch_size = 64
    config.steps = 60
    config.evaluate_every_steps = 20
    config.head.preset = "traditional"
    return config
