"""How fast every head converges: epochs and seconds until a share of its final accuracy, paired by seed."""

import dataclasses

from flax_augtl.runtime.markup import Markup, join, paragraph, table
from flax_augtl.study.report import queries
from flax_augtl.study.report.formatting import probability
from flax_augtl.study.report.tables import (
    ENOUGH_SEEDS,
    Difference,
    Estimate,
    compared,
    corrected,
    estimate,
    reference,
)
from flax_augtl.study.result import StudyResult

SHARES = (0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast a head reaches a share of its final accuracy.

    Attributes:
      head: its name.
      share: of its final accuracy, such as 0.9.
      epochs: until then, mean over seeds.
      seconds: until then, mean over seeds; kept activations are not counted.
      more_epochs: than the reference, paired by seed; None for the reference itself.
      more_seconds: likewise.
    """

    head: str
    share: float
    epochs: Estimate
    seconds: Estimate
    more_epochs: Difference | None = None
    more_seconds: Difference | None = None


def convergence(result: StudyResult) -> list[Pace]:
    """Return the pace of every head at the depth and rate that validation chose, for each of `SHARES`.

    It is measured on the validation data of the selecting trials, whose evaluations are its resolution. The final
    accuracy is a trial's own, at its last evaluation. p values are corrected for the number of heads.
    """
    base, found = reference(result), []
    for share in SHARES:
        reached = {head: _reached(result, head, share) for head in result.winners}
        against = reached.get(base or "", {})
        paces = []
        for head, seeds in reached.items():
            if not seeds:
                continue
            epochs, seconds = (estimate([one[unit] for one in seeds.values()]) for unit in (0, 1))
            assert epochs and seconds, "there is at least one seed"
            common = sorted(seeds.keys() & against.keys()) if head != base else []
            more = [
                compared([seeds[s][unit] - against[s][unit] for s in common]) if common else None for unit in (0, 1)
            ]
            paces.append(Pace(head, share, epochs, seconds, *more))
        found += _corrected(paces)
    return found


def _reached(result: StudyResult, head: str, share: float) -> dict[int, tuple[float, float]]:
    rows = queries.selected(result, head, result.winners[head]["depth"])
    times = {seed: queries.reached(result, row, share, final=True) for seed, row in rows.items()}
    return {seed: time for seed, time in times.items() if time}


def _corrected(paces: list[Pace]) -> list[Pace]:
    for field in ("more_epochs", "more_seconds"):
        levels = iter(corrected([getattr(pace, field) for pace in paces if getattr(pace, field)]))
        paces = [dataclasses.replace(pace, **{field: next(levels)}) if getattr(pace, field) else pace for pace in paces]
    return paces


def convergence_section(result: StudyResult) -> Markup:
    """Return the table of all heads and shares; empty without validation curves."""
    paces = convergence(result)
    if not paces:
        return Markup("")
    base = reference(result)
    rows = [
        [
            pace.head,
            f"{100 * pace.share:.0f} %",
            _text(pace.epochs),
            *_compared(pace.more_epochs),
            _text(pace.seconds),
            *_compared(pace.more_seconds),
        ]
        for pace in paces
    ]
    return join(
        table(
            [
                "Head",
                "Of its final accuracy",
                "Epochs",
                f"minus {base}",
                "p",
                "Holm",
                "Seconds",
                f"minus {base}",
                "p",
                "Holm",
            ],
            rows,
        ),
        paragraph(
            "Until the validation accuracy of a training first reached that share of its own last value, at the chosen "
            "depth and rate; mean over the seeds that chose, 95 % BCa interval over seeds from six on, else the value of "
            "each seed. The evaluations are the resolution. Below zero: faster. Seconds leave out the pass over the "
            "frozen layers, which all heads share. A head that ends lower has less to reach.",
            "note",
        ),
    )


def _text(value: Estimate) -> str:
    if value.seeds < ENOUGH_SEEDS:
        ends = ", ".join(f"{one:.3g}" for one in value.values)
        return f"{value.mean:.3g} ({ends})"
    return f"{value.mean:.3g} [{value.low:.3g}, {value.high:.3g}]"


def _compared(value: Difference | None) -> list[str]:
    return ["", "", ""] if value is None else [_text(value), probability(value.p), probability(value.adjusted)]
