"""The networks against torchvision's without torchvision: golden.json has its outputs."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from flax_augtl.models import create_model
from flax_augtl.pretrained.convert import to_variables
from flax_augtl.pretrained.formats.lazy_tensor import Tensor

_spec = importlib.util.spec_from_file_location("make_golden", pathlib.Path(__file__).with_name("make_golden.py"))
make_golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_golden)


GOLDEN = json.loads(make_golden.GOLDEN.read_text())


def model_of(case, **changes):
    network, settings, _ = make_golden.CASES[case]
    return create_model(network, num_classes=make_golden.CLASSES, **settings, **changes)


def logits_of(model, case):
    """The logits of a model with the tensors that torchvision's network had, under torchvision's names."""
    seed, size = make_golden.seed_of(case), make_golden.CASES[case][2]
    tensors = make_golden.random_tensors({name: tuple(shape) for name, shape in GOLDEN[case]["tensors"].items()}, seed)
    variables = to_variables({name: Tensor.of(array) for name, array in tensors.items()}, model.slots())
    with jax.default_matmul_precision("highest"):
        return jax.jit(model.apply)(variables, make_golden.images(size, seed))


@pytest.mark.parametrize("case", make_golden.CASES)
def test_logits_are_torchvisions(case):
    logits, expected = logits_of(model_of(case), case), np.array(GOLDEN[case]["logits"])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("case", make_golden.CASES)
def test_published_names_and_shapes_are_torchvisions(case):
    # A name that torchvision does not have, or one that is missing, fails here.
    assert {name: list(slot.shape) for name, slot in model_of(case).slots().items()} == GOLDEN[case]["tensors"]


@pytest.mark.parametrize("wrong", [{"v1_stride": True}, {"epsilon": 1e-3}])
def test_a_wrong_variant_fails(wrong):
    # The golden values can fail: another stride or epsilon moves them far beyond the tolerance.
    expected = np.array(GOLDEN["bottleneck"]["logits"])
    logits = logits_of(model_of("bottleneck", **wrong), "bottleneck")
    assert np.abs(logits - expected).max() > 1e-3 * np.abs(expected).max()
