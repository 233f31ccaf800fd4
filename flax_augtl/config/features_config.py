"""The fields of `config.features`: whether the outputs of frozen layers are kept, and where."""

import dataclasses

from flax_augtl.config.field import SAME, setting

AUTO, NONE, MEMORY, FILE, DEVICE = "auto", "none", "memory", "file", "device"


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """What `config.features` holds; see docs/runs.md#kept-features."""

    cache: str = setting(
        AUTO,
        "Keep what the frozen layers give for every view, and train on it: auto (where it saves time and fits), none "
        "(compute them in every step), memory (of the host), file (below the workdir), device. Fresh views "
        "(config.data.views=0), mixup and CutMix leave nothing to keep.",
        choices=(AUTO, NONE, MEMORY, FILE, DEVICE),
        absent=NONE,
    )
    cache_gb: float = setting(4.0, "Gigabytes that these features may take.", least=0, absent=SAME)
