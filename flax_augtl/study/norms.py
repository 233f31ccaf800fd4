"""Every head with further norms and scales, as `config.study.norms` and `config.study.scales` ask."""

import dataclasses
from collections.abc import Mapping, Sequence

from flax_augtl.config.heads import NORMS, SCALED, HeadSettings
from flax_augtl.config.presets import SCRATCH
from flax_augtl.errors import UserError


def with_norms(
    heads: Mapping[str, HeadSettings], norms: Sequence[str], scales: Sequence[float]
) -> dict[str, HeadSettings]:
    """Return the heads, and behind them each head with every other norm and scale.

    A head with the norm l2 and the scale 5 is called `kept.l2.5`, one without a norm `kept.none`. Settings that another
    head of the study has already are left out, so that `traditional` with l2 is not trained beside `traditional_l2`.

    Args:
      heads: settings by name; `scratch` stays as it is.
      norms: to try with every head; none of them keeps each head's own.
      scales: to try with every norm that has a scale; none of them keeps each head's own.

    Raises:
      UserError: a norm does not exist, or a scale is not above 0.
    """
    if unknown := [norm for norm in norms if norm not in NORMS]:
        raise UserError(f"config.study.norms: {unknown[0]!r} is unknown. Choices: {', '.join(NORMS)}.")
    if wrong := [scale for scale in scales if scale <= 0]:
        raise UserError(f"config.study.scales={tuple(scales)}: {wrong[0]:g} is not above 0.")
    found = dict(heads)
    for name, own in heads.items():
        for norm in () if name == SCRATCH else norms or (own.norm,):
            for scale in (scales or (own.scale,)) if norm in SCALED else (own.scale,):
                settings = dataclasses.replace(own, norm=norm, scale=float(scale))
                if settings not in found.values():
                    found[f"{name}.{norm}" + f".{scale:g}" * (norm in SCALED)] = settings
    return found
