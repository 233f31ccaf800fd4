"""Every registered family is tested, and keeps the contract of `SourceNetwork`."""

import ast
import dataclasses
import importlib.util
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from flax_augtl.config.networks import NETWORKS
from flax_augtl.errors import UserError
from flax_augtl.models import create_model
from flax_augtl.models.augmented import CLASSIFICATION
from flax_augtl.models.base import SourceNetwork
from flax_augtl.models.registry import FAMILIES
from tests import families

CLASSES = 7
REQUIRED = {
    method.name
    for method in ast.walk(ast.parse(inspect.getsource(SourceNetwork)))
    if isinstance(method, ast.FunctionDef) and "raise NotImplementedError" in ast.unparse(method.body[-1])
}


def _build(family, **settings):
    case = families.FAMILIES[family]
    return create_model(case.network, num_classes=CLASSES, **{**case.settings, **settings})


def _shapes(model, size):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


def _golden_cases():
    spec = importlib.util.spec_from_file_location("make_golden", pathlib.Path(__file__).with_name("make_golden.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [case[0] for case in module.CASES.values()]


@pytest.mark.parametrize(
    "networks",
    [
        [case.network for case in families.FAMILIES.values()],
        [case.network for case in families.CHAINS.values()],
        _golden_cases(),
        list(NETWORKS),
    ],
    ids=["families", "chains", "golden", "registry"],
)
def test_every_family_is_tested(networks):
    assert {NETWORKS[network].family for network in networks} == set(FAMILIES)


def test_the_contract_names_what_a_family_must_define():
    assert {"groups", "slots", "draw_dense", "block_names", "recognises", "__call__"} <= REQUIRED
    assert len(REQUIRED) == 10


def test_the_table_has_the_family_of_each_network():
    assert {family: NETWORKS[case.network].family for family, case in families.FAMILIES.items()} == {
        family: family for family in FAMILIES
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_defines_every_member(family):
    assert REQUIRED <= set(vars(FAMILIES[family]))
    assert {"CLASSIFIER", "PUBLISHED_CLASSIFIER", "BLOCK_TYPES"} <= set(vars(FAMILIES[family]))
    fields = {field.name for field in dataclasses.fields(FAMILIES[family])}
    assert {"num_classes", "dtype", "axis_name", "remat"} <= fields


@pytest.mark.parametrize("family", FAMILIES)
def test_slots_are_the_variables_of_the_module(family):
    case, model = families.FAMILIES[family], _build(family)
    order = {"conv": (2, 3, 1, 0), "dense": (1, 0), "vector": (0,)}
    slots = model.slots()
    written = {slot.path: tuple(slot.shape[i] for i in order[slot.type]) for slot in slots.values()}
    assert written == {path: leaf.shape for path, leaf in flatten_dict(dict(_shapes(model, case.size))).items()}
    assert sum(np.prod(slot.shape) for slot in slots.values() if slot.path[0] == "params") == case.parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_the_classification_layer_is_the_last_group(family):
    model = _build(family)
    assert model.groups[-1] == model.CLASSIFIER and model.CLASSIFIER in CLASSIFICATION
    assert NETWORKS[families.FAMILIES[family].network].groups[-1] == model.CLASSIFIER
    slot = model.slots()[f"{model.PUBLISHED_CLASSIFIER}.weight"]
    assert slot.path == ("params", model.CLASSIFIER, "kernel") and slot.shape[0] == CLASSES


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_have_originals(family):
    model = _build(family)
    *blocks, last = model.block_names
    assert last == "logits" and list(model.torch_modules()) == blocks
    assert len({model.keras_layer(block) for block in blocks}) == len(blocks)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_own_family_recognises_its_tensors(family):
    names = _build(family).slots()
    assert [other for other, cls in FAMILIES.items() if cls.recognises(names)] == [family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_usual_variant_is_found_again(family):
    model, entry = _build(family), NETWORKS[families.FAMILIES[family].network]
    found = model.variant_of_tensors(model.slots(), entry)
    found |= model.variant_of_paths([slot.path for slot in model.slots().values()])
    assert found == {field: getattr(model, field) for field in found}
    assert not list(model.variant_notes({field: getattr(model, field) for field in found}, entry))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_smallest_image_is_the_limit(family):
    model = _build(family)
    size = model.smallest_image
    assert _shapes(model, size)
    if size > 1:
        with pytest.raises(UserError, match=f"are too small: {size} is the least"):
            _shapes(model, size - 1)
