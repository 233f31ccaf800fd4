"""Fields that the chosen schedule, optimizer or head does not read."""

from collections.abc import Mapping

from flax_augtl.config.durations import UNITS
from flax_augtl.config.field import fields_of
from flax_augtl.config.heads import GRADIENT, PRESETS
from flax_augtl.config.optimizers import OPTIMIZERS, Optimizer
from flax_augtl.config.schedules import SCHEDULES, Schedule
from flax_augtl.config.schema import Config
from flax_augtl.config.value_types import shown
from flax_augtl.errors import ConfigError

# The field that chooses, where the fields stand that only some choices read, and the choices.
_TABLES: tuple[tuple[str, str, Mapping[str, Schedule] | Mapping[str, Optimizer]], ...] = (
    ("schedule.name", "schedule.", SCHEDULES),
    ("optimizer", "", OPTIMIZERS),
)

# What gradient descent reads, and a head that is fitted in closed form does not.
_OF_DESCENT = (
    *UNITS,
    *(f"{name}_{unit}" for name in ("evaluate_every", "checkpoint_every") for unit in UNITS),
    "accumulate",
    "learning_rate",
    "new_layer_multiplier",
    "optimizer",
    "momentum",
    "weight_decay",
    "gradient_clip",
    "label_smoothing",
    "class_weights",
    "balance_classes",
    "early_stopping",
    "remat",
    "data.mixup",
    "data.cutmix",
)


def closed_form_of(config: Config) -> str | None:
    """Return how the head of a configuration is fitted in closed form; None if it is trained."""
    preset = PRESETS.get(config.head.preset)
    fit = config.head.fit or (preset.fit if preset else GRADIENT)
    return None if fit == GRADIENT else fit


def _unused_by_closed_form(config: Config, fit: str) -> list[str]:
    """Return a sentence for every field of gradient descent that is set away from its default."""
    fields = [
        field
        for field in fields_of(Config)
        if field.name in _OF_DESCENT or field.name.startswith(("schedule.", "method."))
    ]
    return [
        f"config.{field.name}={shown(value)} has no effect: config.head.fit={fit!r} is computed in closed form, "
        "without any step."
        for field in fields
        if (value := _value(config, field.name)) != field.setting.default
    ]


def unused_fields(config: Config) -> list[str]:
    """Return a sentence for every field that is set away from its default and that nothing chosen reads."""
    if (fit := closed_form_of(config)) is not None:
        return _unused_by_closed_form(config, fit)
    found = []
    defaults = {field.name: field.setting.default for field in fields_of(Config)}
    for chooser, prefix, table in _TABLES:
        chosen = str(_value(config, chooser))
        some = dict.fromkeys(name for row in table.values() for name in row.uses)
        for name in (name for name in some if name not in table[chosen].uses):
            value = _value(config, prefix + name)
            if value != defaults[prefix + name]:
                readers = [key for key, row in table.items() if name in row.uses]
                found.append(
                    f"config.{prefix}{name}={shown(value)} has no effect: only {' and '.join(readers)} "
                    f"{'reads' if len(readers) == 1 else 'read'} it, and "
                    f"config.{chooser} is {chosen!r}."
                )
    return found


def refuse_unused(config: Config, prefix: str = "") -> None:
    """Check that the chosen schedule, optimizer and head read every field that is set.

    Args:
      config: the configuration.
      prefix: stands before each sentence.

    Raises:
      ConfigError: they do not; the message lists all such fields.
    """
    if found := unused_fields(config):
        hint = "Leave such fields out, or choose what reads them."
        if closed_form_of(config) is not None:
            hint = (
                "Leave such fields out, or set those of a config file to their defaults; configs/common.py sets none."
            )
        raise ConfigError("\n".join([*(prefix + sentence for sentence in found), hint]))


def _value(config: Config, name: str) -> object:
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
