"""Variants of one configuration, which differ in a few fields, trained and compared side by side."""

import os
from collections.abc import Mapping
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from flax_augtl import paired_runs
from flax_augtl.config import overrides
from flax_augtl.config.convert import typed
from flax_augtl.config.unused_fields import refuse_unused
from flax_augtl.cross_validation import CrossValidation, finished, train_folds
from flax_augtl.data.splits import folds
from flax_augtl.errors import UserError
from flax_augtl.run import Run, train
from flax_augtl.runtime.text import columns


def variants_of(config: Any) -> dict[str, Any]:
    """Return the configuration of every variant, by name, in order.

    Args:
      config: a ConfigDict with config.variants.

    Raises:
      UserError: a variant sets a field that does not exist.
    """
    variants = {}
    for name in config.variants:
        variant = config.copy_and_resolve_references()
        with variant.unlocked():
            variant.variants = ConfigDict()
        try:
            variant.update(config.variants[name].to_dict())
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(f"config.variants.{name}: {error.args[0] if error.args else error}") from error
        # A length that the variant gives in another unit replaces the one of the configuration.
        overrides.one_unit(variant, traverse_util.flatten_dict(config.variants[name].to_dict(), sep="."))
        with variant.unlocked():
            variant.name = f"{config.name}/{name}"
        variants[name] = variant.lock()
    return variants


def train_variants(
    config: Any, workdir: os.PathLike | str, *, extend: bool = False, profile: bool = False
) -> dict[str, Run | CrossValidation]:
    """Train every variant into a folder of its name below `workdir`, and print their test metrics side by side.

    With config.data.folds, each variant is trained on all folds, and its metrics are means.

    Args:
      config: a ConfigDict with config.variants.
      workdir: the folder for the run directories.
      extend: see `flax_augtl.train`.
      profile: see `flax_augtl.train`.

    Raises:
      UserError: see `flax_augtl.train`; or a variant sets a field that does not exist.
    """
    runs: dict[str, Run | CrossValidation] = {}
    variants = variants_of(config)
    for name, variant in variants.items():  # Before the first of them is trained.
        if not os.path.exists(os.path.join(os.path.expanduser(workdir), name)):
            refuse_unused(typed(variant), f"config.variants.{name}: ")
    for name, variant in variants.items():
        print(f"\n── {name} " + "─" * max(0, 76 - len(name)))
        act = train_folds if folds.over_all(variant.data) else train
        runs[name] = act(variant, os.path.join(os.path.expanduser(workdir), name), extend=extend, profile=profile)
    print("\n" + table(runs) + "\n\n" + on_the_same_images(runs))
    return runs


def table(runs: Mapping[str, Run | CrossValidation]) -> str:
    """Return the test metrics of runs as text, one line per run, with the validation metric for choosing one."""
    rows: list[tuple[Any, ...]] = [
        ("test", "top-1", "per class", "loss", "examples", "seconds", "val", "", "directory")
    ]
    scores = {name: _validation(run) for name, run in runs.items()}
    for name, run in runs.items():
        result, val = finished(run), scores[name]
        test = result["test"]
        figures = [f"{test[metric]:.4f}" for metric in ("top1", "mean_per_class", "loss")]
        validated = "–" if val is None else f"{val:.4f}"
        rows.append((name, *figures, test["n"], f"{result['seconds']:.1f}", validated, "", _short(run.workdir)))
    lines = [columns(rows, align="<>>>>>>", least=(12, 7, 10, 8, 9, 8, 7), gap=" ")]
    if len(runs) > 1:
        best = _best(runs)
        lines.append(
            f"Best by validation: {' and '.join(best)}{' (a tie)' * (len(best) > 1)}."
            if best
            else "Not all of them have validation results, so no best one is named. Do not choose by the test split."
        )
    return "\n".join(lines)


def on_the_same_images(runs: Mapping[str, Run | CrossValidation]) -> str:
    """Return each run's interval over its test images and its paired test against the best run, as text.

    The best run is the one with the best validation metric.

    A cross-validation counts as one run, on the images of all folds.
    """
    metric = finished(next(iter(runs.values()))).get("metric") or "top1"
    tested = {
        name: paired_runs.read_tested(*(one.workdir for one in getattr(run, "runs", (run,))))
        for name, run in runs.items()
    }
    best = (_best(runs) or [None])[0] if len(runs) > 1 else None
    found = paired_runs.paired(tested, best, metric)
    rows = [("test images", paired_runs.NAMES[metric], "95 % interval", f"minus {best}", "p", "Holm")]
    for name, one in found.items():
        difference = "" if one.p is None else f"{one.difference:+.4f}"
        p, adjusted = ("" if each is None else paired_runs.shown(each) for each in (one.p, one.adjusted))
        rows.append((name, f"{one.value:.4f}", f"[{one.low:.4f}, {one.high:.4f}]", difference, p, adjusted))
    compared = sum(one.p is not None for one in found.values())
    shown = [row[: 3 if not compared else 5 if compared == 1 else 6] for row in rows]
    return "\n".join([*([columns(shown)] if found else []), *paired_runs.notes(tested, found, best, metric)])


def best_run(runs: Mapping[str, Run | CrossValidation]) -> str | None:
    """Return the directory of the best run by validation (the first of a tie); None if there is none, or for folds."""
    best = [runs[name] for name in _best(runs)]
    return _short(best[0].workdir) if best and isinstance(best[0], Run) else None


def _best(runs: Mapping[str, Run | CrossValidation]) -> list[str]:
    """Return the names of the best runs by validation; none if a run has no validation results."""
    scores = {name: _validation(run) for name, run in runs.items()}
    known = [score for score in scores.values() if score is not None]
    if len(known) < len(scores):
        return []
    return [name for name, score in scores.items() if score == max(known)]


def _validation(run: Run | CrossValidation) -> float | None:
    """Return the validation metric by which a run is chosen; None without a validation split."""
    result = finished(run)
    val = result.get("val")
    return val[result.get("metric") or "top1"] if val else None


def _short(path: Any) -> str:
    """Return a path relative to the current directory, if that is shorter."""
    path = os.fspath(path)
    return path if "://" in path else min(path, os.path.relpath(path), key=len)
