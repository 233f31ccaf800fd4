"""How certain the choices on validation data are: warn about too few validation images, and report ties."""

import math
from collections.abc import Mapping, Sequence

from flax_augtl.study import selection
from flax_augtl.study.context import Context
from flax_augtl.study.result import Row
from flax_augtl.study.successive_halving import complete

# Choosing should not need a lead of more than this share of the validation images.
NEEDED = 0.05
LEVEL = 0.05
METRICS = {"top1": "top-1 accuracy", "mean_per_class": "mean per-class accuracy"}


def least_lead(settings: int) -> int:
    """Return the smallest lead, in images, with which the best of some settings is significantly better than another.

    The exact McNemar test decides, corrected for the comparisons of the best with all others (Bonferroni). All images
    on which the two differ are taken to favour the best.
    """
    return math.ceil(1 + math.log2(max(settings - 1, 1) / LEVEL))


def too_few(images: int, settings: int) -> str | None:
    """Return a warning if a validation split is too small to choose between what a study compares; else None.

    Args:
      images: number of different validation images that choices are made with.
      settings: number of settings: heads × depths × learning rates.
    """
    lead = least_lead(settings)
    if settings < 2 or lead <= NEEDED * images:
        return None
    enough = (
        f"only a lead of at least {lead} images ({100 * lead / images:.1f} points) is significant"
        if lead <= images
        else f"no lead can be significant, because that takes {lead} images"
    )
    comparisons = f"{settings - 1} comparison{'s' if settings != 2 else ''}"
    return (
        f"Warning: {images} validation image{'s are' if images != 1 else ' is'} too few to choose between {settings} "
        f"settings (heads × depths × learning rates). One image is {100 / images:.1f} points, and {enough} (exact "
        f"McNemar test at {100 * LEVEL:.0f} %, corrected for {comparisons}). Expect ties and choices by chance. With "
        f"{math.ceil(lead / NEEDED)} images a lead of {100 * NEEDED:.0f} points would be significant. Use more "
        f"validation images (config.data.validation) or more seeds (config.study.selection_seeds), or compare fewer "
        "settings."
    )


def too_few_of(context: Context) -> str | None:
    """Return the warning of `too_few` for a study, if it needs one."""
    grid = context.grid
    images = {name for seed in grid.selection_seeds for name in context.validation(seed).ids}
    return too_few(len(images), grid.settings)


def ties(context: Context, rows: Sequence[Row], best: str) -> list[str]:
    """Return sentences about settings to which validation gave equal accuracies.

    Args:
      context: of the study.
      rows: of all selecting trials.
      best: the head that was chosen.
    """
    seeds = context.grid.selection_seeds
    if context.study.search == "halving":
        rows = complete(rows, len(seeds))
    images = len(context.validation(seeds[0]))
    where = f"on {images} validation images" + (f" of each of {len(seeds)} seeds" if len(seeds) > 1 else "")
    return tied(rows, best, f"{METRICS[context.metric]} {where}")


def tied(rows: Sequence[Row], best: str, where: str) -> list[str]:
    """Return sentences about ties between heads, between the depths or rates of the best head, and in other heads.

    Args:
      rows: of the selecting trials that could be chosen.
      best: the head that was chosen.
      where: the metric, and on what it was measured.
    """
    heads = selection.winners(rows, lambda row: row["head"])
    said = [_sentence("heads", "", {name: each["score"] for name, each in heads.items()}, best, where)]
    others = []
    for head, winner in sorted(heads.items(), key=lambda item: item[0] != best):
        own = [row for row in rows if row["head"] == head]
        depths = selection.winners(own, lambda row: row["depth"])
        at = [row for row in own if row["depth"] == winner["depth"]]
        rates = selection.winners(at, lambda row: (row["classifier_rate"], row["learning_rate"]))
        found = [
            _sentence(what, f"Of {head}, ", scores, chosen, where)
            for what, scores, chosen in (
                ("depths", {depth: each["score"] for depth, each in depths.items()}, winner["depth"]),
                (
                    "learning rates",
                    {_rate(key): each["score"] for key, each in rates.items()},
                    _rate((winner["classifier_rate"], winner["learning_rate"])),
                ),
            )
        ]
        if head == best:
            said += found
        elif any(found):
            others.append(head)
    if others:
        said.append(f"Ties between depths or learning rates of {_listed(others)} were decided by the loss, too.")
    return [sentence for sentence in said if sentence]


def _rate(key: tuple[str, float]) -> str:
    return f"{key[1]:g}" + (" (classification layer at the rate of new layers)" if key[0] == "new" else "")


def _sentence(what: str, before: str, scores: Mapping[str, tuple[float, float]], chosen: str, where: str) -> str:
    equal = [name for name, score in scores.items() if score[0] == scores[chosen][0]]
    if len(equal) < 2:
        return ""
    number = "both" if len(equal) == 2 else f"all {len(equal)}" if len(equal) == len(scores) else f"{len(equal)}"
    text = f"{before}{number} {what} ({_listed(equal)}) had {100 * scores[chosen][0]:.1f} % {where}; "
    lowest = [name for name in equal if scores[name] == scores[chosen]]
    reason = (
        f"the lower loss decided for {chosen}."
        if len(lowest) == 1
        else f"their losses were equal too ({_listed(lowest)}), so {chosen}, the first of them, was chosen."
    )
    return text[0].upper() + text[1:] + reason


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
