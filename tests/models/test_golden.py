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


@pytest.mark.parametrize("case", make_golden.CASES)
def test_logits_are_torchvisions(case):
    network, settings, size = make_golden.CASES[case]
    golden = json.loads(make_golden.GOLDEN.read_text())[case]
    model = create_model(network, num_classes=make_golden.CLASSES, **settings)
    slots = model.slots()
    tensors = make_golden.random_tensors({name: slot.shape for name, slot in slots.items()}, golden["seed"])
    variables = to_variables({name: Tensor.of(array) for name, array in tensors.items()}, slots)
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(model.apply)(variables, make_golden.images(size, golden["seed"]))
    expected = np.array(golden["logits"])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("wrong", [{"v1_stride": True}, {"epsilon": 1e-3}])
def test_a_wrong_variant_fails(wrong):
    # The golden values can fail: another stride or epsilon moves them far beyond the tolerance.
    network, settings, size = make_golden.CASES["bottleneck"]
    golden = json.loads(make_golden.GOLDEN.read_text())["bottleneck"]
    model = create_model(network, num_classes=make_golden.CLASSES, **settings, **wrong)
    slots = model.slots()
    tensors = make_golden.random_tensors({name: slot.shape for name, slot in slots.items()}, golden["seed"])
    variables = to_variables({name: Tensor.of(array) for name, array in tensors.items()}, slots)
    logits = jax.jit(model.apply)(variables, make_golden.images(size, golden["seed"]))
    expected = np.array(golden["logits"])
    assert np.abs(logits - expected).max() > 1e-3 * np.abs(expected).max()
