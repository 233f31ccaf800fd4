"""Every head with further methods of fine-tuning, as `config.study.methods` and `config.study.strengths` ask."""

import dataclasses
from collections.abc import Mapping, Sequence

from flax_augtl.config.heads import HeadSettings
from flax_augtl.config.methods import METHODS, PLAIN, STRENGTHS, MethodSettings, at_strength
from flax_augtl.config.nearest import did_you_mean
from flax_augtl.config.presets import SCRATCH
from flax_augtl.errors import UserError

PLUS = "+"


@dataclasses.dataclass(frozen=True)
class Rival:
    """How a head of a study is fine-tuned.

    Attributes:
      head: the name of the head without the method.
      method: the name of the method.
      settings: its settings.
      finer: how many times more learning rates it is tried with than the study names, in place of strengths.
    """

    head: str
    method: str
    settings: MethodSettings
    finer: int = 1

    @property
    def contestant(self) -> str:
        """The head with its method, whatever the strength: validation chooses one strength of each."""
        return self.head if self.method == PLAIN else f"{self.head}{PLUS}{self.method}"


def with_methods(
    heads: Mapping[str, HeadSettings],
    methods: Sequence[str],
    strengths: Sequence[float],
    own: MethodSettings = METHODS[PLAIN],
) -> tuple[dict[str, HeadSettings], dict[str, Rival]]:
    """Return the heads, and behind them each head with every method and strength; and how each of them is fine-tuned.

    A head with L2-SP is called `traditional+l2_sp`, with three times the strength `traditional+l2_sp.3`. A head on random
    weights and a head in closed form have no pretrained layers to fine-tune.

    Args:
      heads: settings by name.
      methods: to try with every head.
      strengths: factors of each method's strength; none of them for 1.
      own: the method of the heads themselves, `config.method`.

    Raises:
      UserError: a method does not exist, or a strength is not above 0.
    """
    for name in methods:
        if name not in METHODS:
            raise UserError(
                f"config.study.methods: {name!r} is unknown.{did_you_mean(name, METHODS, show=repr)} "
                f"Choices: {', '.join(METHODS)}."
            )
    if wrong := [factor for factor in strengths if factor <= 0]:
        raise UserError(f"config.study.strengths={tuple(strengths)}: {wrong[0]:g} is not above 0.")
    methods, factors = [name for name in dict.fromkeys(methods) if name != PLAIN], tuple(strengths) or (1.0,)
    finer = len(factors) if methods else 1
    found, rivals = dict(heads), {}
    for name, settings in heads.items():
        tuned = name != SCRATCH and not settings.closed_form
        rivals[name] = Rival(name, PLAIN, own if not settings.closed_form else METHODS[PLAIN], finer if tuned else 1)
        for method in methods if tuned else ():
            if method not in STRENGTHS:
                found[f"{name}{PLUS}{method}"] = settings
                rivals[f"{name}{PLUS}{method}"] = Rival(name, method, METHODS[method], finer)
                continue
            for factor in factors:
                entry = f"{name}{PLUS}{method}" + ("" if factor == 1 else f".{factor:g}")
                found[entry], rivals[entry] = settings, Rival(name, method, at_strength(method, factor))
    return found, rivals


def finer_rates(rates: Sequence[float], times: int) -> tuple[float, ...]:
    """Return `times` as many learning rates: between each two of them, and as closely beyond both ends.

    Args:
      rates: ascending.
      times: how many times as many.
    """
    if times == 1 or len(rates) < 2:
        return tuple(rates)
    steps = [(later / earlier) ** (1 / times) for earlier, later in zip(rates, rates[1:], strict=False)]
    found = [rate * step**part for rate, step in zip(rates, steps, strict=False) for part in range(times)] + [rates[-1]]
    below, above = (times - 1) // 2, times - 1 - (times - 1) // 2
    found = [rates[0] / steps[0] ** part for part in range(below, 0, -1)] + found
    found += [rates[-1] * steps[-1] ** part for part in range(1, above + 1)]
    return tuple(float(f"{rate:.3g}") for rate in found)
