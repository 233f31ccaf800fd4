"""A small network's state dict."""

import numpy as np
import pytest

from flax_augtl.models import create_model

CLASSES = 7


def draw_state_dict(model, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random tensors in torchvision's names for every slot of a model, its statistics random too."""
    random = np.random.RandomState(seed)
    tensors = {}
    for name, slot in model.slots().items():
        if slot.type == "vector":
            low, high = (0.5, 1.5) if name.endswith(("running_var", "weight")) else (-0.3, 0.3)
            tensors[name] = random.uniform(low, high, slot.shape).astype(np.float32)
        else:
            value = random.standard_normal(slot.shape) * (2 / np.prod(slot.shape[1:])) ** 0.5
            tensors[name] = value.astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def state_dict():
    """A resnet20 with seven classes, in torchvision's names."""
    return draw_state_dict(create_model("resnet20", num_classes=CLASSES))


@pytest.fixture(scope="session")
def draw():
    """The function that draws a state dict for a model."""
    return draw_state_dict
