"""Methods of fine-tuning: each is a small file, a frozen dataclass of numbers with a pure function for one place."""

from flax_augtl.config.methods import MethodSettings
from flax_augtl.training.methods.class_contrast import ClassContrast
from flax_augtl.training.methods.layer_decay import LayerDecay
from flax_augtl.training.methods.parameter_kinds import ParameterKind
from flax_augtl.training.methods.places import Places
from flax_augtl.training.methods.pull_to_start import PullToStart
from flax_augtl.training.methods.relative_gradient import RelativeGradient
from flax_augtl.training.methods.spectral_shrinkage import SpectralShrinkage
from flax_augtl.training.methods.stochastic_norm import StochasticNorm

__all__ = ["Places", "places_of"]


def places_of(settings: MethodSettings) -> Places:
    """Return what settings plug into training; a strength of 0 leaves its method out."""
    return Places(
        subset=None if settings.trains == "all" else ParameterKind(settings.trains),
        group_rates=None if settings.layer_decay == 1 else LayerDecay(settings.layer_decay),
        pulls=(PullToStart(settings.l2_sp),) if settings.l2_sp else (),
        around=(RelativeGradient(settings.relative_gradient),) if settings.relative_gradient else (),
        losses=(
            *([SpectralShrinkage(settings.bss, settings.bss_values)] if settings.bss else []),
            *([ClassContrast(settings.contrast, settings.contrast_temperature)] if settings.contrast else []),
        ),
        normalisation=StochasticNorm(settings.stoch_norm) if settings.stoch_norm else None,
    )
