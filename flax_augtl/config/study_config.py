"""The fields of `config.study`: what a study compares, and how it searches."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax_augtl.config.field import SAME, setting


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What `config.study` holds; see docs/study.md. None leaves a field to the preset."""

    preset: str = setting(
        "quick",
        'What the study compares: quick, paper, controls, full, rivals; "" = only what the next fields say. A field that is '
        "given takes the place of what the preset decides.",
        choices=("quick", "paper", "controls", "full", "rivals", ""),
    )
    minutes: float | None = setting(
        None,
        "Minutes that the study may take, over all of its starts; 0 = no limit; None = 10 for the preset quick, 0 for "
        "others.",
        least=0,
        absent=0.0,
    )
    heads: tuple[str, ...] | None = setting(
        None,
        "Further heads beside those of the preset, by the name of their preset; scratch = the traditional head on random "
        "weights.",
    )
    own_heads: Mapping[str, Any] = setting({}, "Further heads as {name: {field of config.head: value, …}, …}.")
    depths: tuple[str, ...] | None = setting(
        None,
        'Freeze depths: the topmost frozen layer group, none, all; None = every one; ("blocks",) = every residual block.',
    )
    learning_rates: tuple[float, ...] | None = setting(
        None,
        "Learning rates that every head is tried with at every depth. If the lowest or the highest is the best, the study "
        "tries further ones. None = 0.0003, 0.001, 0.003, 0.01, 0.03.",
    )
    norms: tuple[str, ...] = setting(
        (),
        "Norms that every head is tried with besides its own: none, l2, batch, layer, power. Each gives a head of its own, "
        "such as kept.power.10.",
        absent=SAME,
    )
    scales: tuple[float, ...] = setting(
        (),
        "Initial gammas that every head with the norm l2 or power is tried with besides its own, such as 1, 5, 10, 20, 40.",
        absent=SAME,
    )
    methods: tuple[str, ...] = setting(
        (),
        "Methods of fine-tuning that every head is tried with besides its plain one, by the name of a preset of "
        "config.method. Each gives a head of its own, such as traditional+l2_sp.",
        absent=SAME,
    )
    strengths: tuple[float, ...] = setting(
        (),
        "Factors of the strength of each method, among which validation chooses, such as 0.333, 1, 3. Heads without a "
        "strength are tried with as many settings by a finer grid of learning rates. Empty = 1, or what the preset says.",
        absent=SAME,
    )
    seeds: tuple[int, ...] | None = setting(
        None,
        "Seeds, shared by all heads. Fewer than six cannot show significance. None = the seed 0 for the preset quick, six "
        "for the others.",
    )
    selection_seeds: int | None = setting(None, "How many of the seeds choose; 0 = all.", least=0)
    search: str | None = setting(
        None,
        "How the grid is searched: grid (all of it), halving (fewer and longer trainings, step by step), budget (from the "
        "depth all downwards, by halving, while config.study.minutes last); None = budget where there are minutes, else "
        "grid.",
        choices=("grid", "halving", "budget"),
    )
    finals: str | None = setting(
        None,
        "What is trained on training and validation data together, and tested: the depth that validation chose for each "
        "head (winners), or every depth of each head (depths); None = winners.",
        choices=("winners", "depths"),
    )
    views: int | None = setting(
        None,
        "Number of views of an image to train with, where config.data.views is 0. None = 4, or fewer where the time "
        "budget is short.",
        least=1,
    )
    cache: str = setting(
        "auto",
        "Where activations are kept: auto, file (below the workdir), memory, none.",
        choices=("auto", "file", "memory", "none"),
    )
    cache_gb: float = setting(8.0, "Gigabytes of activations that may be kept.", least=0)
    device_gb: float = setting(4.0, "Gigabytes of activations that may be on the device at a time.", least=0)
    cache_dtype: str = setting(
        "float32", "How activations are stored: float32, bfloat16.", choices=("float32", "bfloat16")
    )
    together: int = setting(
        0,
        "Trials that are trained at once under vmap, where the layers that train are dense, or on an accelerator; 0 = "
        "decided by a timing.",
        least=0,
    )
    checkpoint_seconds: float = setting(30.0, "Seconds between two checkpoints within a trial.", least=0)
    lease_seconds: float = setting(
        60.0, "Seconds after which the trials of a worker that fell silent are taken over.", above=0
    )
