"""What the command line sets of a configuration."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from configs import common
from flax_augtl import cli, modes
from flax_augtl.config import overrides
from tests.conftest import ROOT

# ml_collections loads configuration files in a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def parsed(*arguments, config="configs/folder.py", monkeypatch):
    """Parse a command line as main.py does, and return the configuration."""
    arguments = ["main.py", f"--config={ROOT / config}", *arguments]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    monkeypatch.setattr("sys.argv", arguments)
    assert cli.parse(values, arguments) == ["main.py"] and sys.argv == arguments
    return values.config, modes._overrides(values)


@pytest.mark.parametrize("arguments", [["--config.epochs=None"], ["--config.epochs", "None"]])
def test_none_clears_an_optional_field(arguments, monkeypatch):
    config, given = parsed(
        *arguments,
        "--config.weights=None",
        "--config.class_weights=None",
        "--config.image_size=64",
        monkeypatch=monkeypatch,
    )
    assert config.epochs is None and config.weights is None and config.class_weights is None and config.image_size == 64
    assert given == {"epochs", "weights", "class_weights", "image_size"}


def test_none_goes_on_being_text_where_it_is_a_part_of_it(monkeypatch):
    config, _ = parsed("--config.name=None-such", "--config.freeze=none", monkeypatch=monkeypatch)
    assert config.name == "None-such" and config.freeze == "none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.freeze=None"],
            '--config.freeze=None: this field cannot be None; give it a text, or the word "none".',
        ),
        (["--config.batch_size=None"], "--config.batch_size=None: this field cannot be None; give it a whole number."),
        (
            ["--config.head=traditional"],
            "--config.head is a group of fields and has no value of its own. To set its preset, "
            "write "
            "--config.head.preset=traditional. Its fields: classifier_init, ",
        ),
        (
            ["--config.study=quick"],
            "--config.study is a group of fields and has no value of its own. To set its preset, write "
            "--config.study.preset=quick.",
        ),
        (
            ["--epochs=5"],
            "There is no flag --epochs. Fields of the configuration are set with config in front: --config.epochs=5.",
        ),
        (
            ["--lerning_rate=1"],
            "There is no flag --lerning_rate. Fields of the configuration are set with config in front: "
            "--config.learning_rate=1.",
        ),
        (
            ["--preset=wider"],
            "There is no flag --preset. Fields of the configuration are set with config in front: "
            "--config.head.preset=wider or --config.method.preset=wider or --config.study.preset=wider.",
        ),
        (
            ["--epochs", "5"],
            "There is no flag --epochs. Fields of the configuration are set with config in front: "
            "--config.epochs=VALUE.",
        ),
        (
            ["--lr=1"],
            "There is no flag --lr. Fields of the configuration are set with config in front: "
            "--config.learning_rate=1.",
        ),
        (["--wrkdir=runs"], "There is no flag --wrkdir. Did you mean --workdir?"),
        (
            ["--frobnicate"],
            "There is no flag --frobnicate. Fields of the configuration are set with --config.FIELD=VALUE; ",
        ),
    ],
)
def test_a_mistake_says_what_to_write(arguments, message, monkeypatch):
    with pytest.raises(ValueError) as caught:
        parsed(*arguments, monkeypatch=monkeypatch)
    assert str(caught.value).startswith(message)


def test_a_length_that_is_given_wins_over_the_other_units_of_the_file(monkeypatch):
    config, _ = parsed(
        "--config.steps=100",
        "--config.schedule.warmup_steps=5",
        "--config.checkpoint_every_steps=7",
        monkeypatch=monkeypatch,
    )
    assert (config.steps, config.epochs, config.examples) == (100, None, None)
    assert (config.schedule.warmup_steps, config.schedule.warmup_epochs) == (5, None)
    assert config.checkpoint_every_steps == 7


def test_two_units_that_are_both_given_are_left_for_the_error(monkeypatch):
    config, _ = parsed("--config.steps=100", "--config.epochs=2", monkeypatch=monkeypatch)
    assert (config.steps, config.epochs) == (100, 2.0)


def test_boundaries_in_another_unit_replace_those_of_the_file():
    config = common.get_config()
    config.schedule.boundaries_epochs = (1.0, 2.0)
    config.schedule.boundaries_steps = (10,)
    overrides.one_unit(config, {"schedule.boundaries_steps"})
    assert config.schedule.boundaries_epochs == () and config.schedule.boundaries_steps == (10,)


def test_a_length_in_any_unit_is_one_length():
    assert overrides.same_length("steps") == ("steps", "epochs", "examples")
    assert overrides.same_length("learning_rate") == ("learning_rate",)
