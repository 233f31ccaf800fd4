"""What each `--mode` of the program does."""

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl.flags import FlagValues
from etils import epath
from ml_collections import ConfigDict, config_flags

from flax_augtl import evaluation_report, predict_mode
from flax_augtl.config import overrides
from flax_augtl.config.convert import typed
from flax_augtl.data import Dataset
from flax_augtl.data.splits import folds
from flax_augtl.errors import UserError
from flax_augtl.next_steps import next_steps
from flax_augtl.run import Run, load_run, train
from flax_augtl.run_data import ALL, load_again
from flax_augtl.runtime import distributed
from flax_augtl.runtime.paths import absolute
from flax_augtl.runtime.text import columns, for_terminal, on_one_line
from flax_augtl.training import prediction_files
from flax_augtl.training.evaluation import Evaluation, as_lines
from flax_augtl.training.log import BRACKETS, describe
from flax_augtl.trust import calibration
from flax_augtl.trust.finish import with_temperature
from flax_augtl.workdir import files, resume


def required(flags: Any, name: str) -> Any:
    """Return the value of a flag that the mode needs.

    Raises:
      UserError: it was not given.
    """
    value = getattr(flags, name)
    if not value:
        example = {"workdir": "runs/first", "config": "configs/digits.py", "images": "photos/"}[name]
        raise UserError(f"--mode={flags.mode} needs --{name}, such as --{name}={example}.")
    return value


def _train(flags: Any) -> None:
    from flax_augtl.variants import best_run, train_variants

    config = required(flags, "config")
    if flags.dry_run:
        _plan(config, flags)
    elif flags.data_root:
        if config.variants or folds.over_all(config.data):
            raise UserError(
                "--data_root is for a single run: with variants or folds give --config.data.fold, or evaluate "
                "each run with --mode=evaluate --data_root."
            )
        workdir = absolute(flags.workdir)
        dataset = _data_of(config, workdir, flags.data_root)
        train(config, workdir, dataset=dataset, extend=flags.extend, profile=flags.profile)
        print(next_steps(flags.workdir))
    elif config.variants:
        _not_overridden(config, _overrides(flags))
        best = best_run(train_variants(config, flags.workdir, extend=flags.extend, profile=flags.profile))
        print(next_steps(best, runs=flags.workdir))
    elif folds.over_all(config.data):
        from flax_augtl.cross_validation import train_folds

        train_folds(config, flags.workdir, extend=flags.extend, profile=flags.profile)
        print(next_steps(None, runs=flags.workdir))
    else:
        train(config, flags.workdir, extend=flags.extend, profile=flags.profile)
        print(next_steps(flags.workdir))


def _data_of(config: Any, workdir: epath.Path, data_root: str) -> Dataset:
    """Return the dataset of a configuration, or of the run that it began, from the folder `data_root`."""
    return load_again(resume.as_begun(typed(config), workdir), workdir, data_root)


def _plan(config: Any, flags: Any) -> None:
    """Print the plan of a training; of several, that of the first one."""
    from flax_augtl.cross_validation import fold_configs
    from flax_augtl.train_plan import plan
    from flax_augtl.variants import variants_of

    workdir, note = absolute(flags.workdir), ""
    if config.variants:
        variants = variants_of(config)
        name, config = next(iter(variants.items()))
        workdir, note = workdir / name, f"\nThe first of {len(variants)} variants: {', '.join(variants)}."
    if folds.over_all(config.data):
        configs = fold_configs(config)
        config, workdir, note = configs[0], workdir / "fold0", f"{note}\nThe first of {len(configs)} folds."
    dataset = _data_of(config, workdir, flags.data_root) if flags.data_root else None
    plan(config, workdir, dataset=dataset, extend=flags.extend, say=lambda text: print(for_terminal(text)))
    if note:
        print(note.lstrip("\n"))


def _overrides(flags: Any) -> set[str]:
    """Return the fields of the configuration that the command line sets, such as `head.preset`."""
    return set(config_flags.get_override_values(flags["config"])) if isinstance(flags, FlagValues) else set()


def _not_overridden(config: Any, given: set[str]) -> None:
    """Raise UserError if the command line sets a field that every variant sets itself: it would have no effect."""
    for name, variant in config.variants.items():
        for field in sorted(field for field in given if {*overrides.same_length(field)} & {*_dotted(variant)}):
            raise UserError(
                f"--config.{field} has no effect: the variants of {config.name} set that field themselves. "
                f"Give --config.variants.{name}.{field}, and so for each of {', '.join(config.variants)}."
            )


def _dotted(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Yield the names of all fields, such as `head.preset`."""
    for name, value in config.items():
        yield from _dotted(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else (prefix + name,)


def _study(flags: Any) -> None:
    from flax_augtl.study.study import study

    if jax.process_count() > 1:
        raise UserError(
            "The workers of a study are independent programs: start the same command on every machine, without "
            "--coordinator, with one --workdir on a file system that all of them share. They divide the "
            "trials among themselves."
        )
    config = required(flags, "config")
    if folds.over_all(config.data):
        from flax_augtl.study.folds import study_folds as study
    study(config, flags.workdir, dry_run=flags.dry_run, part=_part(flags.cells))


def _part(text: str) -> tuple[int, int] | None:
    """Return (i, n) of --cells=i/n, None if it is not given."""
    if not text:
        return None
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--cells={text} must be i/n with i from 1 to n, such as --cells=1/4.")
    return int(number), int(count)


def _evaluate(flags: Any) -> None:
    output = _output(flags)
    run = load_run(flags.workdir, step=flags.step)
    if flags.calibrate:
        run, lines = evaluation_report.calibrate(run, flags.data_root)
        for line in lines:
            print(for_terminal(line))
    evaluated = run.evaluation(flags.split, data_root=flags.data_root, views=flags.views)
    values = evaluated.metrics
    print(f"{flags.split}, step {run.step}: {describe(values, evaluated.intervals)}; {BRACKETS}")
    for line in as_lines(values):
        print(f"  {line}")
    print(f"  {calibration.sentence(run.workdir, run.step, evaluated.probabilities, evaluated.labels)}")
    print(textwrap.indent(_class_table(evaluated.class_table(run.class_names)), "  "))
    if distributed.is_first():
        _write_split(run, evaluated, flags, output)
        if run.config.report and flags.views == "one":
            print(for_terminal(evaluation_report.write(run, flags.split, evaluated, flags.data_root)))


def _class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the scores of each class as an aligned table."""
    names = ("recall", "precision", "f1", "roc_auc")
    cells = [
        (
            on_one_line(row["label"][:24]),
            row["n"],
            *("–" if row[name] is None else f"{row[name]:.4f}" for name in names),
            on_one_line(row["taken_for"] or ""),
        )
        for row in rows
    ]
    headings = ("label", "n", "recall", "precision", "F1", "ROC AUC", "most often predicted as")
    return columns([headings, *cells], align="<>>>>>", least=(24, 6, 9, 9, 9, 9))


def _write_split(run: Run, evaluated: Evaluation, flags: Any, output: epath.Path | None) -> None:
    """Write the predictions of an evaluation, or warn if the run directory cannot be written."""
    other = None if flags.step == "best" or run.step == (run.result or {}).get("best_step") else run.step
    path = output or run.workdir / prediction_files.name_of(flags.split, other)
    try:
        lines = prediction_files.write_split(
            path,
            with_temperature(evaluated, run.temperature),
            run.class_names,
            flags.data_root if flags.split == ALL else None,
        )
    except files.CannotWrite as error:
        if output:
            raise
        lines = [f"warning: {error} The predictions can be written elsewhere with --output=FILE."]
    else:
        if evaluated.probabilities is not None:
            print(for_terminal(f"\nPredictions of {len(evaluated.labels)} images are in {path}"))
    for line in lines:
        print(for_terminal(line), file=sys.stderr)


def _output(flags: Any) -> epath.Path | None:
    """Return the path of --output, None if it is not given or if another process writes."""
    if flags.output is None or not distributed.is_first():
        return None
    return prediction_files.output_path(flags.output)


def _predict(flags: Any) -> int:
    """Predict images in files; return the exit code."""
    images, output = required(flags, "images"), _output(flags)
    return predict_mode.predict(flags, images, output)


def _embed(flags: Any) -> int:
    """Write the embeddings of images in files; return the exit code."""
    from flax_augtl.embed import embed_files
    from flax_augtl.trust import embeddings

    images = required(flags, "images")
    path = embeddings.output_path(flags.output, absolute(flags.workdir))
    run = load_run(flags.workdir, step=flags.step)
    if not distributed.is_first():
        return 0
    found, unreadable = embed_files(
        run, images, path, layer=flags.layer, pooled=flags.pooled, max_pixels=flags.max_pixels
    )
    print(for_terminal(f"Embeddings of {len(found)} images, {found.dtype} {list(found.shape)}, are in {path}"))
    return predict_mode.report_unreadable(
        [{"path": name, "reason": reason} for name, reason in unreadable.items()], True
    )


def _compare(flags: Any) -> None:
    from flax_augtl import compare

    comparison = compare.compare(compare.find_runs(flags.workdir))
    print(compare.as_text(comparison))
    print("\n" + "\n".join(map(str, compare.write(flags.workdir, comparison))))


def _inspect(flags: Any) -> None:
    from flax_augtl import inspect_data

    found = inspect_data.inspect(flags.config, flags.workdir, data_root=flags.data_root)
    print(inspect_data.as_text(found))
    print(for_terminal(f"\n{absolute(flags.workdir) / inspect_data.inspection_page.PAGE}"))


def _export(flags: Any) -> None:
    from flax_augtl.export import export

    run = load_run(flags.workdir, step=flags.step)
    if not distributed.is_first():
        return
    for path in export(
        run,
        flags.format,
        input=flags.input,
        outputs=flags.outputs,
        weights=flags.weights,
        push_to_hub=flags.push_to_hub,
        data_root=flags.data_root,
        say=lambda text: print(for_terminal(text), file=sys.stderr),
    ):
        print(path)


# From the flags; an exit code other than 0 may be returned.
MODES: Mapping[str, Callable[[Any], int | None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "study": _study,
    "export": _export,
    "compare": _compare,
    "inspect": _inspect,
    "embed": _embed,
}
