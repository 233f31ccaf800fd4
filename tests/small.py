"""Small networks, data and configurations for the tests."""

import dataclasses

import jax
import numpy as np

from configs import common
from flax_augtl.config.convert import typed
from flax_augtl.config.heads import PRESETS
from flax_augtl.models import create_model
from flax_augtl.models.augmented import AugmentedNetwork, Head
from flax_augtl.training.log import RunLog
from tests.families import FAMILIES

NETWORKS = FAMILIES


def head(preset, **changes):
    """Settings of a preset with new layers of a few units."""
    settings = PRESETS[preset]
    narrow = {"new_layers": tuple(width // 128 for width in settings.new_layers), "widen": settings.widen // 128}
    return dataclasses.replace(settings, **{**narrow, **changes})


def network(preset="kept_deeper", family="resnet", *, num_classes=3, source_classes=7, axis_name=None, **changes):
    """A network of some hundred parameters a layer group."""
    name, variant, *_ = NETWORKS[family]
    settings = head(preset, **changes)
    source = create_model(
        name, num_classes=source_classes if settings.keep_classifier else None, axis_name=axis_name, **variant
    )
    return AugmentedNetwork(source, Head(settings, num_classes, np.dtype("float32"), axis_name))


def variables(net, size=8, seed=0):
    """Random variables of a network, running statistics included; drawn without compiling anything."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), np.zeros((1, size, size, 3), np.float32)))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if len(leaf.shape) > 1:
            return (rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)
        around = 1.0 if path[-1].key in ("scale", "var") else 0.0
        return (around + 0.2 * rng.random(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, {"batch_stats": {}, **shapes})


def images(count, size=8, seed=0):
    """Normalised images, float32 [count, size, size, 3]."""
    return np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype(np.float32)


def digits_config(**changes):
    """A configuration that trains a ResNet-20 on 8-pixel digits for a few steps.

    Without the report and the familiarity, which take longer than the training.
    """
    config = common.get_config()
    config.update(
        {
            "name": "test",
            "network": "resnet20",
            "image_size": 8,
            "batch_size": 8,
            "steps": 4,
            "evaluate_every_steps": 2,
            "log_every_steps": 1,
            "learning_rate": 0.01,
            "report": False,
            "familiarity": False,
            "preprocessing": {"crop_fraction": 1.0},
            "head": {"preset": "traditional"},
            "data": {"name": "digits", "shots": 4, "validation": 0.25, "crop": "none", "flip": False, "shift": 1},
        }
    )
    config.update(changes)
    return config


def typed_config(**changes):
    """The same as typed values."""
    return typed(digits_config(**changes))


def at_step(step, act, monkeypatch):
    """Have something happen once a step is done."""
    shown, done = RunLog.step, []

    def wrapped(self, number, loss):
        shown(self, number, loss)
        if number == step and not done:
            done.append(number)
            act()

    monkeypatch.setattr(RunLog, "step", wrapped)
