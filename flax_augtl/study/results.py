"""What a finished study leaves: the best network as a run directory, LEEP's results, and the result for the report."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from flax_augtl.config.convert import to_json
from flax_augtl.config.heads import PRESETS
from flax_augtl.config.schema import Config, HeadConfig, MethodConfig
from flax_augtl.features.activations import Activations
from flax_augtl.features.cache import fill_seconds
from flax_augtl.features.views import EVALUATION
from flax_augtl.models import leep, transferability
from flax_augtl.models.augmented import CLASSIFICATION, HEAD
from flax_augtl.run import load_run
from flax_augtl.runtime.versions import versions
from flax_augtl.study import choices
from flax_augtl.study.context import Context
from flax_augtl.study.grid import ALL, NONE, SCRATCH, Grid, Trial
from flax_augtl.study.overlap import leakage, one_test_split, seen_by_other_seeds
from flax_augtl.study.result import StudyResult
from flax_augtl.study.trials import predictions as predicted
from flax_augtl.study.trials.batches import source_logits
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.study.trials.worker import Work
from flax_augtl.study.untrained import untrained_scores
from flax_augtl.training import metrics
from flax_augtl.training.checkpoints import open_checkpoints
from flax_augtl.training.evaluation import Evaluation
from flax_augtl.training.intervals import confusion_intervals
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import create_state
from flax_augtl.training.step import cross_entropy
from flax_augtl.training.step_inputs import KeptFeatures
from flax_augtl.trust.calibration import Calibration
from flax_augtl.workdir import files
from flax_augtl.workdir.description import PLACE, Description, place_of, read_result, write_description

BEST = "best"


def winner_config(context: Context, trial: Trial) -> Config:
    """Return the configuration with which `train` would run a final trial."""
    config, settings = context.config, context.settings(trial)
    rival = context.grid.rival(trial.head)
    preset = rival.head if rival.head in PRESETS else "traditional"
    return dataclasses.replace(
        config,
        name=f"{config.name}/{trial.head}",
        seed=trial.seed,
        freeze=context.grid.label(trial.head, trial.depth),
        learning_rate=trial.learning_rate or Config.learning_rate,
        steps=None if settings.closed_form else trial.steps,
        epochs=None,
        examples=None,
        head=HeadConfig(preset, **dataclasses.asdict(settings)),
        method=MethodConfig(rival.method, **dataclasses.asdict(rival.settings)),
        data=dataclasses.replace(config.data, validation=0.0),
        weights=None if trial.head == SCRATCH else config.weights,
    )


def keep_best(context: Context, winner: Trial, folder: Path) -> Callable[[TrialBatch], None]:
    """Return a function that writes the best network as a run directory if it is in a finished batch."""

    def keep(batch: TrialBatch) -> None:
        if winner in batch.trials:
            write_run(context, batch, batch.trials.index(winner), folder / BEST)

    return keep


def write_run(context: Context, batch: TrialBatch, index: int, workdir: Path) -> None:
    """Write one trained trial as a run directory, including the frozen layers below its kept activations."""
    trial, above = batch.trials[index], batch.variables(index)
    start = batch.signature.start
    variables = {}
    for collection in ("params", "batch_stats"):
        parts = {part: dict(tree) for part, tree in above.get(collection, {}).items()}
        below = {
            group: tree
            for group, tree in context.source.variables.get(collection, {}).items()
            if group in context.source.groups[:start]
        }
        if below or parts.get("source"):
            parts["source"] = {**below, **parts.get("source", {})}
        variables[collection] = jax.tree.map(np.asarray, parts)
    plan = batch.signature.plan
    state = create_state(variables, create_optimizer(batch.signature.optimizer, plan), plan, trial.seed)
    state = state.replace(step=np.int32(batch.step))
    dataset = context.datasets[trial.seed]
    shutil.rmtree(workdir, ignore_errors=True)  # It may hold the best network of a smaller study.
    files.prepare(workdir)
    with open_checkpoints(workdir / files.CHECKPOINTS, frozen=plan.frozen) as checkpoints:
        checkpoints.save(state, Progress(step=batch.step, position=batch.step, seconds=batch.seconds))
    config = winner_config(context, trial)
    write_description(
        epath.Path(workdir),
        Description(to_json(config), context.class_names, context.preprocessing.to_json(), context.described),
        {
            "fingerprint": dataset.fingerprint,
            PLACE: place_of(config.data.root),
            "train": list(context.examples(trial)[0]),
            "test": list(dataset.test.ids),
        },
    )
    note = "Not calibrated: the best network of a study was trained on the validation images too."
    files.write_json(workdir / files.CALIBRATION, Calibration(None, batch.step, 0, note).to_json())
    row = batch.results()[index]
    said, intervals = predicted.read(row), None
    if said is not None:
        intervals = confusion_intervals(metrics.confusion_matrix(dataset.test.labels, said, len(context.class_names)))
    files.write_json(
        workdir / files.RESULT,
        {
            "test": row["test"],
            "val": None,
            "intervals": {"test": intervals, "val": None},
            "best_step": batch.step,
            "metric": context.metric,
            "seconds": batch.seconds,
            "config_name": f"{context.config.name}/{trial.head}",
            "cell": trial.name,
        },
    )


def kept_trial(folder: Path) -> str | None:
    """Return the name of the trial whose network is kept as the best; None if there is none."""
    found = read_result(folder / BEST)
    return None if found is None else found.get("cell")


def leep_row(context: Context, train: Activations, test: Activations) -> dict[str, Any] | None:
    """Return the results of LEEP's predictor; None if the source network has no classification layer.

    It is estimated on training data to be tested on validation data, and on both to be tested on test data.

    Returns:
      See `StudyResult.leep`.
    """
    if context.source.groups[-1] not in CLASSIFICATION:
        return None
    classes, tested, validated, said, estimated = len(context.class_names), [], [], [], []
    scores: dict[str, float] = {}
    for seed in context.grid.seeds:
        dataset, val = context.datasets[seed], context.validation(seed)
        on_train, on_val = (_softmax(source_logits(context, train, part.ids)) for part in (dataset.train, val))
        from_train = leep.conditional(on_train, dataset.train.labels, classes)
        validated.append(_summary(leep.predict(on_val, from_train), val.labels))
        on_both = np.concatenate([on_train, on_val])
        from_both = leep.conditional(on_both, np.concatenate([dataset.train.labels, val.labels]), classes)
        of_test = leep.predict(_softmax(source_logits(context, test, dataset.test.ids)), from_both)
        tested.append(_summary(of_test, dataset.test.labels))
        said.append(predicted.written(of_test.argmax(axis=1)))
        if not estimated:  # The related source classes are those of the first seed.
            estimated = leep.speakers(from_both, on_both)
            scores = {
                "leep": transferability.leep_score(on_train, dataset.train.labels, classes),
                "nce": transferability.nce(on_train, dataset.train.labels, classes),
            }
    names = context.source.class_names
    speaks = {
        name: [[names[z] if names else str(z), share] for z, share in some]
        for name, some in zip(context.class_names, estimated, strict=True)
    }
    return {
        "val": _mean(validated),
        "test": _mean(tested),
        "test_by_seed": tested,
        "predicted_by_seed": said,
        "speaks": speaks,
        "scores": scores,
    }


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(logits))


def _summary(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return metrics.summary(_sums(probabilities, labels))


def _sums(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    logits = jnp.asarray(np.log(np.maximum(probabilities, 1e-30)).astype(np.float32))
    targets = jnp.asarray(np.eye(logits.shape[1], dtype=np.float32)[labels])
    losses, mask = cross_entropy(logits, targets), jnp.ones(len(labels), jnp.float32)
    return metrics.add([metrics.evaluation_sums(logits, losses, jnp.asarray(labels, jnp.int32), mask)])


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def predictions(
    context: Context, test: Activations, folder: Path
) -> tuple[dict[str, list] | None, dict[str, Any] | None]:
    """Return the predictions of the best network for the test images of its seed, and its scores; None without one."""
    if not (folder / BEST / files.RESULT).exists():
        return None, None
    run = load_run(folder / BEST)
    config: Any = run.config
    examples = context.datasets[config.seed].test
    groups = [group for group in run.network.groups if group != HEAD]
    frozen = groups[-1] if config.freeze == ALL else config.freeze
    depth = groups.index(frozen) + 1 if frozen != NONE else 0
    kept = config.head.classifier_init == "pretrained" or frozen not in CLASSIFICATION
    start = test.nearest(run.network, depth if kept else depth - 1)

    @jax.jit
    def apply(variables: Any, inputs: Any) -> jax.Array:
        x = KeptFeatures(start).read({"inputs": inputs}, None, context.preprocessing)
        logits: Any = run.network.apply(variables, x, start)
        return jax.nn.softmax(logits)

    rows, size = test.rows.of(examples.ids, EVALUATION), 64
    with test.rows.decoders() as decoders:
        found = [
            np.asarray(apply(run.variables, test.gather(run.network, start, np.resize(part, size), decoders)))[
                : len(part)
            ]
            for part in np.split(rows, range(size, len(rows), size))
        ]
    probabilities = np.concatenate(found)
    said = {
        "id": list(examples.ids),
        "label": examples.labels.tolist(),
        "prediction": probabilities.argmax(1).tolist(),
        "confidence": probabilities.max(1).tolist(),
    }
    evaluated = Evaluation(_sums(probabilities, examples.labels), examples.labels, probabilities)
    return said, {
        "metrics": evaluated.metrics,
        "intervals": evaluated.intervals,
        "classes": evaluated.class_table(context.class_names),
    }


def shown_rows(grid: Grid, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows as the report has them: `depth` is the requested depth, `frozen` the topmost frozen layer group."""
    return [{**row, "depth": grid.label(row["head"], row["depth"]), "frozen": row["depth"]} for row in rows]


def outcome(
    work: Work,
    chosen: list[dict[str, Any]],
    tested: list[dict[str, Any]],
    winners: dict[str, dict[str, Any]],
    best: str,
    left_out: Sequence[str],
    *,
    account: Mapping[str, float],
) -> StudyResult:
    """Return what a study measured, for its report.

    Args:
      work: of the study.
      chosen: rows of the selecting trials.
      tested: rows of the final trials.
      winners: `Trial.depth`, `learning_rate` and `steps` of each head.
      best: the head that validation chose.
      left_out: sentences about what there was no time for.
      account: seconds that each part of a study with a time budget took.
    """
    context, folder, test = work.context, work.folder, work.test
    assert test is not None, "the final trials have been tested"
    first = context.datasets[context.grid.seeds[0]]
    said, scores = predictions(context, test, folder)
    rows = shown_rows(context.grid, [*chosen, *tested])
    winners = {head: {**winner, "depth": context.grid.label(head, winner["depth"])} for head, winner in winners.items()}

    ids = said["id"] if said else []

    def image(index: int) -> np.ndarray:
        with test.rows.decoders() as decoders:
            return test.rows.images(test.rows.of([ids[index]], EVALUATION), decoders)[0]

    return StudyResult(
        config=to_json(context.config),
        metric=context.metric,
        depths=context.grid.axis,
        rows=rows,
        winners=winners,
        best=best,
        counts={
            "train": len(first.train),
            "val": len(context.validation(context.grid.seeds[0])),
            "test": len(first.test),
        },
        class_names=context.class_names,
        finals_by_depth=context.study.finals == "depths",
        leep=leep_row(context, work.activations, test),
        notes=(*first.notes, *seen_by_other_seeds(context.datasets)),
        one_test_split=one_test_split(context.datasets),
        leakage=leakage(context.config.data.name, context.class_names, context.source.class_names),
        versions=versions(),
        seconds=sum(row["seconds"] for row in rows) + fill_seconds(folder),
        predictions=said,
        tests={
            seed: {"id": dataset.test.ids, "label": dataset.test.labels} for seed, dataset in context.datasets.items()
        },
        choices=tuple(filter(None, (choices.too_few_of(context), *choices.ties(context, chosen, best)))),
        scores=scores,
        same_depths=context.grid.same_depths(),
        left_out=tuple(left_out),
        account=account,
        image=None if said is None else image,
        untrained=untrained_scores(context, work.activations),
    )
