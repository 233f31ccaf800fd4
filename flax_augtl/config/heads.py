"""The head's settings and its presets, as plain data.

The four networks of Shermin et al. (arXiv 1903.10150), the two of "Growing a Brain" (Wang et al., arXiv 1907.07844) and
the controls differ in these settings only. The paper does not fix the widths, the activation, the value of gamma and
the zero initialisation of the target classifier: this project chose them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_augtl.config.nearest import did_you_mean
from flax_augtl.errors import UserError

NORMS = ("none", "l2", "batch", "layer", "power")
SCALED = ("l2", "power")
"""The norms that `HeadSettings.scale` is the initial gamma of."""

CLASSIFIER_INITS = ("pretrained", "random", "shuffled")
CLASSIFIER_RATES = ("pretrained", "new")
CLASSIFIER_STARTS = ("zero", "leep")
GRADIENT, LDA, RIDGE, CLASS_MEANS = "gradient", "lda", "ridge", "class_means"
FITS = (GRADIENT, LDA, RIDGE, CLASS_MEANS)


@dataclasses.dataclass(frozen=True)
class HeadSettings:
    """Settings of the head.

    Attributes:
      keep_classifier: keep the pretrained classification layer; the head then reads its outputs, otherwise the
        penultimate features.
      new_layers: widths of the new layers between the head's inputs and the target classifier (depth augmentation).
      widen: number of new units beside the topmost layer that is kept of the source network, with the same inputs
        (width augmentation); 0 for none.
      norm: normalisation of the inputs of every new layer and of the target classifier: one of `NORMS`. `power` takes
        the signed square root before `l2`.
      scale: initial gamma of the norms `SCALED`.
      classifier_init: weights of the kept classification layer: one of `CLASSIFIER_INITS`. `random` and `shuffled` are
        controls.
      classifier_rate: whether the kept classification layer trains at the rate of the pretrained or of the new layers.
      classifier_init_from: where the target classifier starts: `zero`, or `leep`, a predictor without training
        (`flax_augtl.models.leep`). `leep` needs a target classifier that reads the kept layer.
      dropout: probability with which an input of the target classifier, and an output of a new layer, is dropped.
      fit: how the target classifier comes to its weights: by `gradient` descent, or in closed form on the frozen
        features (`flax_augtl.models.closed_form`): one of `FITS`.
      strength: of the regularisation of a closed form: the shrinkage of `lda`, in [0, 1], or the penalty of `ridge`
        divided by the mean variance of a feature; None chooses it from the training data.
    """

    keep_classifier: bool = True
    new_layers: tuple[int, ...] = ()
    widen: int = 0
    norm: str = "l2"
    scale: float = 10.0
    classifier_init: str = "pretrained"
    classifier_rate: str = "pretrained"
    classifier_init_from: str = "zero"
    dropout: float = 0.0
    fit: str = GRADIENT
    strength: float | None = None

    @property
    def closed_form(self) -> bool:
        """Whether the head is fitted in closed form, without any step of gradient descent."""
        return self.fit != GRADIENT

    def __post_init__(self):
        for field, choices in (
            ("norm", NORMS),
            ("classifier_init", CLASSIFIER_INITS),
            ("classifier_rate", CLASSIFIER_RATES),
            ("classifier_init_from", CLASSIFIER_STARTS),
            ("fit", FITS),
        ):
            if getattr(self, field) not in choices:
                raise UserError(f"config.head.{field}={getattr(self, field)!r} is not one of {', '.join(choices)}.")
        if self.widen < 0 or any(width < 1 for width in self.new_layers):
            raise UserError(
                f"Widths of the head must be positive: config.head.new_layers={self.new_layers}, "
                f"config.head.widen={self.widen}."
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"config.head.dropout={self.dropout} is not in [0, 1).")
        reads_kept = (
            self.keep_classifier and not self.new_layers and not self.widen and self.classifier_init == "pretrained"
        )
        if self.classifier_init_from == "leep" and not reads_kept:
            raise UserError(
                "config.head.classifier_init_from='leep' needs a target classifier that reads the pretrained "
                "classification layer: keep_classifier=True, new_layers=(), widen=0, "
                "classifier_init='pretrained', as in the presets kept and kept_plain."
            )
        if not self.keep_classifier and self.classifier_init != "pretrained":
            raise UserError(
                f"config.head.classifier_init={self.classifier_init!r} needs a kept classification layer, "
                "but config.head.keep_classifier is False."
            )
        self._check_fit()

    def _check_fit(self):
        """Check the fields of a closed form.

        Raises:
          UserError: they contradict each other.
        """
        linear = not (self.keep_classifier or self.new_layers or self.widen or self.dropout) and self.norm != "batch"
        if self.closed_form and not linear:
            raise UserError(
                f"config.head.fit={self.fit!r} fits one linear layer on the penultimate features: it needs "
                "keep_classifier=False, new_layers=(), widen=0, dropout=0 and any norm but batch, as in the preset "
                f"{self.fit}."
            )
        if self.strength is not None and self.fit not in (LDA, RIDGE):
            raise UserError(
                f"config.head.strength={self.strength:g} has no effect: only config.head.fit=lda and ridge read it."
            )
        if self.strength is not None and (self.strength < 0 or self.fit == LDA and self.strength > 1):
            raise UserError(
                f"config.head.strength={self.strength:g} must be {'in [0, 1]' if self.fit == LDA else 'at least 0'} "
                f"for config.head.fit={self.fit!r}."
            )


PRESETS: Mapping[str, HeadSettings] = {
    "traditional": HeadSettings(keep_classifier=False, norm="none"),
    "traditional_l2": HeadSettings(keep_classifier=False),
    "kept_plain": HeadSettings(norm="none"),
    "kept": HeadSettings(),
    "kept_deeper": HeadSettings(new_layers=(1024,)),
    "kept_deeper_batch": HeadSettings(new_layers=(1024,), norm="batch"),
    "kept_deeper2": HeadSettings(new_layers=(2048, 1024)),
    "deeper": HeadSettings(keep_classifier=False, new_layers=(1024,)),
    "wider": HeadSettings(keep_classifier=False, widen=1024),
    "random_deeper": HeadSettings(new_layers=(1024,), classifier_init="random"),
    "shuffled_deeper": HeadSettings(new_layers=(1024,), classifier_init="shuffled"),
    LDA: HeadSettings(keep_classifier=False, norm="none", fit=LDA),
    RIDGE: HeadSettings(keep_classifier=False, norm="none", fit=RIDGE),
    CLASS_MEANS: HeadSettings(keep_classifier=False, norm="none", fit=CLASS_MEANS),
}


def head_settings(preset: str, overrides: Mapping[str, Any] | None = None) -> HeadSettings:
    """Return the settings of a preset; every setting in `overrides` that is not None replaces the preset's.

    Raises:
      UserError: the preset or a field is unknown, or a value is invalid.
    """
    if preset not in PRESETS:
        raise UserError(
            f"config.head.preset={preset!r} is unknown.{did_you_mean(preset, PRESETS, show=repr)} "
            f"Choices: {', '.join(PRESETS)}."
        )
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    known = {field.name for field in dataclasses.fields(HeadSettings)}
    if unknown := sorted(set(given) - known):
        raise UserError(f"config.head has no field {', '.join(unknown)}. Fields: preset, {', '.join(sorted(known))}.")
    if "new_layers" in given:
        given["new_layers"] = tuple(int(width) for width in given["new_layers"])
    return dataclasses.replace(PRESETS[preset], **given)
