"""report.html: all results of a study, in one file that needs no network and runs no script."""

import json
from collections.abc import Iterable

from flax_augtl.runtime.charts import embedded
from flax_augtl.runtime.markup import Markup, details, document, element, join, paragraph, section, table
from flax_augtl.runtime.text import duration
from flax_augtl.study.report import comparison, figures, mistakes, queries
from flax_augtl.study.report.convergence import convergence_section
from flax_augtl.study.report.formatting import (
    METRICS,
    percent,
)
from flax_augtl.study.report.tables import reference
from flax_augtl.study.report.untrained import untrained_section
from flax_augtl.study.report.verdict import verdict
from flax_augtl.study.result import StudyResult
from flax_augtl.trust.report import parts

VALIDATION = (
    "Mean over seeds, with the best learning rate at each depth. With six or more seeds, bands are 95 % BCa "
    "intervals over seeds; with fewer, each small dot is one seed. Hollow points are shorter trainings. The "
    "learning rate was chosen with these same accuracies, so they are slightly too high: compare the depths with "
    "each other."
)


def page(result: StudyResult) -> str:
    """Return the report as HTML."""
    name = str(result.config.get("name") or "study")
    body = join(
        element("header", join(element("h1", f"Layer-wise study: {name}"), paragraph(_what(result)))),
        section("Verdict", element("ul", join(*(element("li", sentence) for sentence in verdict(result))))),
        section("Accuracy against freeze depth", _depths(result)),
        section("Heads at their chosen depth", comparison.summary_section(result)),
        section("Methods", comparison.methods_section(result)),
        section("Questions", comparison.questions_section(result)),
        section("Scores without training", untrained_section(result)),
        section("Every freeze depth", comparison.depths_section(result)),
        section("Learning curves", _curves(result)),
        section("Convergence", convergence_section(result)),
        section("Change of the pretrained weights", _change(result)),
        section("Confusion", _confusion(result)),
        section("Metrics of the winner", _metrics(result)),
        section("Most confident errors", _mistakes(result)),
        section("Source classes related to each target class", _speaks(result)),
        section("Leakage", _leakage(result)),
        section("Data and compute", _data(result)),
        section("Trials without a result", _failed(result)),
        section(
            "Config",
            details(
                "Every field", element("pre", json.dumps(result.config, indent=2, ensure_ascii=False, default=str))
            ),
        ),
    )
    return document(f"{name}: layer-wise study", body)


def _what(result: StudyResult) -> str:
    seeds = len({row["seed"] for row in result.rows})
    tried = len({row["depth"] for row in result.rows})
    depths = f"{tried} of {len(result.depths)}" if tried < len(result.depths) else f"{tried}"
    parts = (
        (f"{len(queries.heads(result))}", "head"),
        (depths, "freeze depth"),
        (f"{seeds}", "seed"),
        (f"{len(result.rows)}", "trial"),
    )
    return (
        ", ".join(f"{count} {word}{'s' if count != '1' else ''}" for count, word in parts)
        + f". All choices were made by {METRICS[result.metric]} on validation data. The test split was used only for "
        "the final result of "
        + ("each head and depth." if result.finals_by_depth else "each head, at its chosen depth.")
    )


def _images(drawn: Iterable[tuple[str, str]]) -> list[Markup]:
    return [embedded(svg, alt) for svg, alt in drawn]


def _depths(result: StudyResult) -> Markup:
    overviews, single = [], []
    for split, caption in (
        ("val", VALIDATION),
        ("test", "The same on the test split, after training again on training and validation data."),
    ):
        if split == "test" and not result.finals_by_depth:
            continue
        if images := _images(figures.depth_figures(result, split)):
            overviews.append(element("figure", join(images[0], element("figcaption", caption))))
            if images[1:]:
                beside = f", beside {reference(result)}" if reference(result) else ""
                title = f"Each head with its 95 % band{beside}: {'validation' if split == 'val' else 'test'}, %"
                single.append(
                    details(title, element("div", join(*images[1:]), {"class": "figures small"}), open=split == "val")
                )
    return join(element("div", join(*overviews), {"class": "figures"}), *single) if overviews else Markup("")


def _curves(result: StudyResult) -> Markup:
    images = _images(figures.curve_figures(result))
    if not images:
        return Markup("")
    return join(
        element("div", join(*images), {"class": "figures"}),
        paragraph(
            "Each head at its chosen depth and learning rate, while it trained without the validation "
            "data; mean over seeds. Seconds count training only, not the one-time computation of the "
            "frozen layers.",
            "note",
        ),
    )


def _change(result: StudyResult) -> Markup:
    rows, shades, groups, found = [], [], {}, {}
    for head, winner in result.winners.items():
        runs = queries.finals(result, head, winner["depth"]) or queries.selected(result, head, winner["depth"])
        found[head] = [row["change"] or {} for row in runs.values()]
        groups |= dict.fromkeys(group for change in found[head] for group in change)
    if not groups:
        return Markup("")
    largest = max(change[group] for changes in found.values() for change in changes for group in change) or 1.0
    for head, changes in found.items():
        means = [queries.mean(change[group] for change in changes if group in change) for group in groups]
        rows.append(
            [
                head,
                result.winners[head]["depth"],
                *("–" if mean != mean else "0" if mean == 0 else f"{mean:.2g}" for mean in means),
            ]
        )
        shades.append([0.0, 0.0, *(0.0 if mean != mean else mean / largest for mean in means)])
    return join(
        table(["Head", "Freeze depth", *groups], rows, shades=shades),
        paragraph(
            "Relative change of the weights, ‖w − w₀‖ / ‖w₀‖, of each pretrained layer group at the chosen "
            "depth, mean over seeds. 0: frozen. –: not part of that network.",
            "note",
        ),
    )


def _confusion(result: StudyResult) -> Markup:
    if not result.predictions or not result.predictions["label"]:
        return Markup("")
    return join(
        paragraph(f"{result.best}, first seed, on the test split.", "note"),
        parts.confusion_section(
            mistakes.confusion_png(result),
            mistakes.confused_pairs(result),
            "confusion matrix of the winner on the test split",
        ),
    )


def _metrics(result: StudyResult) -> Markup:
    if not result.scores:
        return Markup("")
    return join(
        paragraph(f"{result.best}, first seed, on the test split.", "note"),
        parts.metrics_table(result.scores["metrics"], result.scores["intervals"]),
        parts.class_table(result.scores["classes"]),
        paragraph(parts.CLASSES_NOTE, "note"),
    )


def _mistakes(result: StudyResult) -> Markup:
    found = mistakes.confident_mistakes(result) if result.predictions else []
    cards = [
        parts.error_card(
            mistakes.thumbnail(result.image, index) if result.image else None, label, prediction, confidence, name
        )
        for index, name, label, prediction, confidence in found
    ]
    return parts.error_cards(cards)


def _speaks(result: StudyResult) -> Markup:
    speaks = (result.leep or {}).get("speaks") or {}
    if not speaks:
        return Markup("")
    rows = [
        [target, ", ".join(f"{source} {percent(share)} %" for source, share in sources)]
        for target, sources in speaks.items()
    ]
    shown = table(["Target class", "Source classes, share"], rows, wrap=True)
    return join(
        shown if len(rows) <= parts.LONG else details(f"{len(rows)} target classes", shown),
        paragraph(
            "For each target class, the source classes that point to it most strongly: P(target class | "
            "source class), estimated by LEEP on the training data. High shares mean that the kept "
            "classification layer already separates this class.",
            "note",
        ),
    )


def _leakage(result: StudyResult) -> Markup:
    return join(
        *map(
            paragraph,
            result.leakage
            or (
                "No overlap was found: the dataset is not known to contain images of "
                "the source network's training data, and no class has the same name.",
            ),
        )
    )


def _data(result: StudyResult) -> Markup:
    counts = [
        [f"{split} examples", f"{result.counts[split]:,}".replace(",", " ")]
        for split in ("train", "val", "test")
        if split in result.counts
    ]
    rows = [
        *counts,
        ["classes", len(result.class_names)],
        ["computing time, caches included", duration(result.seconds)],
        *([f"time budget: {name}", duration(seconds)] for name, seconds in result.account.items()),
        *([name, version] for name, version in result.versions.items()),
    ]
    return join(
        table(["", ""], rows),
        element("ul", join(*(element("li", note) for note in result.notes))) if result.notes else "",
    )


def _failed(result: StudyResult) -> Markup:
    rows = [[row["cell"], row["error"] or "the loss became infinite or NaN"] for row in queries.failed(result)]
    if not rows:
        return Markup("")
    return details(f"{len(rows)} of {len(result.rows)} trials", table(["Trial", "What happened"], rows, wrap=True))
