"""The section of the report with scores without training, beside the accuracies that the study measured."""

from collections.abc import Sequence
from typing import Any

from flax_augtl.runtime.markup import Markup, join, paragraph, table
from flax_augtl.study.report import queries
from flax_augtl.study.report.formatting import METRICS, percent
from flax_augtl.study.result import StudyResult

NAMES = {"logme": "LogME", "h_score": "H-score"}
FEWEST = 3  # Depths for a rank correlation.


def accuracies(result: StudyResult, head: str) -> dict[str, float]:
    """Return the validation accuracy of a head by its topmost frozen layer group, at the best rate for each."""
    found = {}
    for depth in queries.depths(result, head):
        trials = queries.selected(result, head, depth)
        if trials:
            frozen = {row.get("frozen", row["depth"]) for row in trials.values()}
            found[frozen.pop()] = queries.mean(queries.values(trials, "val", result.metric).values())
    return found


def rank_correlation(scores: Sequence[float], values: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None for fewer than `FEWEST` pairs, or where all scores or values are equal."""
    from scipy.stats import spearmanr

    if len(scores) < FEWEST or len(set(scores)) == 1 or len(set(values)) == 1:
        return None
    found: Any = spearmanr(scores, values)
    return float(found.statistic)


def untrained_section(result: StudyResult) -> Markup:
    """Return the table of scores by depth and their rank correlations; empty if no activations were kept."""
    scores = result.untrained
    if not scores:
        return Markup("")
    heads = [head for head in queries.heads(result) if head in result.winners]
    measured = {head: accuracies(result, head) for head in heads}
    rows: list[list[object]] = [
        [
            depth,
            *(f"{found[name]:.3f}" for name in NAMES),
            *(percent(measured[head].get(depth)) for head in heads),
        ]
        for depth, found in scores.items()
    ]
    for name, title in NAMES.items():
        cells: list[object] = []
        for head in heads:
            common = [depth for depth in scores if depth in measured[head]]
            found = rank_correlation(
                [scores[depth][name] for depth in common], [measured[head][depth] for depth in common]
            )
            cells.append("–" if found is None else f"{found:+.2f}".replace("-", "−"))
        rows.append([f"rank correlation with {title}", "", "", *cells])
    found = (result.leep or {}).get("scores") or {}
    more = f" Of the source classes: LEEP {found['leep']:.3f}, NCE {found['nce']:.3f}." if found else ""
    return join(
        table(["Frozen up to", *NAMES.values(), *heads], rows),
        paragraph(
            "LogME (You et al. 2021) and the regularised H-score (Ibrahim et al. 2022) of the pooled outputs of the frozen "
            "layers, for the training images of the first seed; higher is better. Beside them, in %, validation "
            f"{METRICS[result.metric]} of each head at that depth, and Spearman's rank correlation over the depths, if "
            f"there are {FEWEST} or more. Layers whose activations are not kept have no score.{more}".replace(
                " -", " −"
            ),
            "note",
        ),
    )
