"""Configurations of earlier versions: a field that they lack means what it meant then."""

import pytest
from flax_augtl.config.config_dict import config_values

from configs import common
from flax_augtl.config import added_fields
from flax_augtl.config.added_fields import Added


def _field(config, name):
    for part in name.split("."):
        config = config[part]
    return tuple(config) if isinstance(config, list) else config


def test_defaults_are_those_of_the_configuration():
    config = common.get_config()
    assert {name: _field(config, name) for name in added_fields.ADDED} == {
        name: added.default for name, added in added_fields.ADDED.items()
    }


@pytest.fixture
def flip_is_new(monkeypatch):
    """Pretend that an earlier version had no `config.data.flip`, and mirrored nothing; and its configuration."""
    monkeypatch.setattr(added_fields, "ADDED", {"data.flip": Added(absent="none", default="horizontal")})
    old = config_values(common.get_config())
    del old["data"]["flip"]
    return old


def test_an_old_configuration_is_filled_with_the_old_behaviour(flip_is_new):
    assert added_fields.filled(flip_is_new)["data"]["flip"] == "none"
    assert "flip" not in flip_is_new["data"]
    assert added_fields.filled({"data": {"flip": "both"}}) == {"data": {"flip": "both"}}


def test_flips_of_earlier_versions_are_true_or_false():
    for old, new in ((True, "horizontal"), (False, "none"), ("both", "both")):
        assert added_fields.filled({"data": {"flip": old}})["data"]["flip"] == new
        config = common.get_config()
        config.data.flip = old
        assert config_values(config)["data"]["flip"] == new


def test_the_same_command_goes_on_as_it_began(flip_is_new):
    config = common.get_config()
    assert added_fields.continued(config, flip_is_new).data.flip == "none"
    assert config.data.flip == "horizontal"


def test_what_is_set_otherwise_than_by_default_stays(monkeypatch, flip_is_new):
    monkeypatch.setattr(added_fields, "ADDED", {"data.shift": Added(absent=0, default=1)})
    config = common.get_config()
    config.data.shift = 3
    del flip_is_new["data"]["shift"]
    assert added_fields.continued(config, flip_is_new).data.shift == 3


def test_a_config_json_that_lacks_a_field_keeps_lacking_it(flip_is_new):
    now = config_values(added_fields.continued(common.get_config(), flip_is_new))
    assert added_fields.still_lacking(now, flip_is_new) == flip_is_new
    assert added_fields.still_lacking(now, now) == now
    assert now["data"]["flip"] == "none"
