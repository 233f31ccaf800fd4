"""Fields that the chosen schedule or optimizer does not read."""

from collections.abc import Mapping

from flax_augtl.config.field import fields_of
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


def unused_fields(config: Config) -> list[str]:
    """Return a sentence for every field that is set away from its default and that nothing chosen reads."""
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
    """Check that the chosen schedule and optimizer read every field that is set.

    Args:
      config: the configuration.
      prefix: stands before each sentence.

    Raises:
      ConfigError: they do not; the message lists all such fields.
    """
    if found := unused_fields(config):
        raise ConfigError(
            "\n".join([*(prefix + sentence for sentence in found), "Leave such fields out, or choose what reads them."])
        )


def _value(config: Config, name: str) -> object:
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
