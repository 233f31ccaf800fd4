"""The settings of fine-tuning methods and their presets, as plain data.

A preset stands for numbers. Each number can be set alone, and numbers of several methods can be combined. The numbers of a
preset are the defaults of the method's authors where they have one (docs/methods.md has the sources).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_augtl.config.nearest import did_you_mean
from flax_augtl.errors import UserError

PLAIN = "plain"
TRAINS = ("all", "norm", "bias")


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """Settings of how pretrained layers are fine-tuned; with the defaults, plainly.

    Attributes:
      layer_decay: the rate of a pretrained layer group is the rate of the one above it times this; 1 for one rate.
      trains: which parameters of the trainable pretrained groups are trained: `all`, those of the batch `norm`, or the
        `bias`es.
      l2_sp: strength of the pull of pretrained kernels to their initial values, in place of their weight decay; 0 for
        none.
      bss: strength of the penalty of the smallest squared singular values of a batch's features; 0 for none.
      bss_values: how many singular values are penalised.
      contrast: strength of the supervised contrastive loss of a batch's features; 0 for none.
      contrast_temperature: of that loss.
      relative_gradient: power of ‖gradient‖ / ‖weight‖ to which the rate of each pretrained tensor is proportional; 0 for
        none.
      stoch_norm: probability with which a channel of a trainable batch norm takes its running statistics in training; 0 for
        never.
    """

    layer_decay: float = 1.0
    trains: str = "all"
    l2_sp: float = 0.0
    bss: float = 0.0
    bss_values: int = 1
    contrast: float = 0.0
    contrast_temperature: float = 0.07
    relative_gradient: float = 0.0
    stoch_norm: float = 0.0

    def __post_init__(self):
        if self.trains not in TRAINS:
            raise UserError(
                f"config.method.trains={self.trains!r} is not one of {', '.join(TRAINS)}."
                f"{did_you_mean(self.trains, TRAINS, show=repr)}"
            )


METHODS: Mapping[str, MethodSettings] = {
    PLAIN: MethodSettings(),
    "discriminative": MethodSettings(layer_decay=0.9),
    "norm_only": MethodSettings(trains="norm"),
    "bias_only": MethodSettings(trains="bias"),
    "l2_sp": MethodSettings(l2_sp=0.1),
    "bss": MethodSettings(bss=0.001),
    "contrast": MethodSettings(contrast=1.0),
    "auto_rgn": MethodSettings(relative_gradient=1.0),
    "stoch_norm": MethodSettings(stoch_norm=0.5),
}


# The number of each method that is its strength.
STRENGTHS: Mapping[str, str] = {
    "discriminative": "layer_decay",
    "l2_sp": "l2_sp",
    "bss": "bss",
    "contrast": "contrast",
    "auto_rgn": "relative_gradient",
    "stoch_norm": "stoch_norm",
}


def at_strength(preset: str, factor: float) -> MethodSettings:
    """Return a preset with its strength multiplied; a decay is raised to that power, and a probability ends at 1."""
    settings = METHODS[preset]
    name = STRENGTHS[preset]
    value = getattr(settings, name)
    scaled = value**factor if name == "layer_decay" else value * factor
    return dataclasses.replace(settings, **{name: min(scaled, 1.0) if name == "stoch_norm" else scaled})


def method_settings(preset: str, overrides: Mapping[str, Any] | None = None) -> MethodSettings:
    """Return the settings of a preset; every setting in `overrides` that is not None replaces the preset's.

    Raises:
      UserError: the preset or a field is unknown, or a value is invalid.
    """
    if preset not in METHODS:
        raise UserError(
            f"config.method.preset={preset!r} is unknown.{did_you_mean(preset, METHODS, show=repr)} "
            f"Choices: {', '.join(METHODS)}."
        )
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    known = [field.name for field in dataclasses.fields(MethodSettings)]
    if unknown := sorted(set(given) - set(known)):
        raise UserError(f"config.method has no field {', '.join(unknown)}. Fields: preset, {', '.join(known)}.")
    return dataclasses.replace(METHODS[preset], **given)


def changed(settings: MethodSettings) -> dict[str, Any]:
    """Return the settings that differ from plain fine-tuning."""
    plain = METHODS[PLAIN]
    return {name: value for name, value in dataclasses.asdict(settings).items() if value != getattr(plain, name)}


def check_pretrained(settings: MethodSettings, *, pretrained: bool) -> None:
    """Check that there are pretrained weights where a method needs them.

    Raises:
      UserError: there are none.
    """
    reasons = {
        "layer_decay": "lowers the rates of pretrained layers",
        "trains": "leaves the other pretrained parameters as they are",
        "l2_sp": "pulls to the pretrained weights",
        "relative_gradient": "divides the rates of pretrained layers",
    }
    for name, value in changed(settings).items():
        if name in reasons and not pretrained:
            raise UserError(
                f"config.method.{name}={value} {reasons[name]}, but config.weights is None. Give pretrained weights, or "
                "set config.method.preset='plain'."
            )
