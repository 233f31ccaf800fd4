"""Configurations of earlier versions: a field that they lack means what it meant then."""

import dataclasses

import pytest

from flax_augtl.config import added_fields
from flax_augtl.config.convert import from_json, to_json
from flax_augtl.config.field import Setting
from flax_augtl.config.schema import Config, DataConfig


def added(absent, default):
    return Setting("", default, absent=absent, added=True)


def test_every_added_field_has_a_value_for_its_absence():
    assert {"data.split_seed", "study.minutes", "weights_entry"} <= set(added_fields.ADDED)
    assert from_json(added_fields.filled({})).weights_entry == "raw"


@pytest.fixture
def flip_is_new(monkeypatch):
    """Pretend that an earlier version had no `config.data.flip`, and mirrored nothing; and its configuration."""
    monkeypatch.setattr(added_fields, "ADDED", {"data.flip": added("none", "horizontal")})
    old = to_json(Config())
    del old["data"]["flip"]
    return old


def test_an_old_configuration_is_filled_with_the_old_behaviour(flip_is_new):
    assert added_fields.filled(flip_is_new)["data"]["flip"] == "none"
    assert "flip" not in flip_is_new["data"]
    assert added_fields.filled({"data": {"flip": "both"}}) == {"data": {"flip": "both"}}


def test_flips_of_earlier_versions_are_true_or_false():
    for old, new in ((True, "horizontal"), (False, "none"), ("both", "both")):
        assert added_fields.filled({"data": {"flip": old}})["data"]["flip"] == new
        assert from_json({"data": {"flip": old}}).data.flip == new


def test_the_same_command_goes_on_as_it_began(flip_is_new):
    config = Config()
    assert added_fields.continued(config, flip_is_new).data.flip == "none"
    assert config.data.flip == "horizontal"


def test_what_is_set_otherwise_than_by_default_stays(monkeypatch, flip_is_new):
    monkeypatch.setattr(added_fields, "ADDED", {"data.shift": added(0, 1)})
    config = dataclasses.replace(Config(), data=DataConfig(shift=3))
    del flip_is_new["data"]["shift"]
    assert added_fields.continued(config, flip_is_new).data.shift == 3


def test_a_config_json_that_lacks_a_field_keeps_lacking_it(flip_is_new):
    now = to_json(added_fields.continued(Config(), flip_is_new))
    assert added_fields.still_lacking(now, flip_is_new) == flip_is_new
    assert added_fields.still_lacking(now, now) == now
    assert now["data"]["flip"] == "none"
