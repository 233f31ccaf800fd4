"""What each mode of main.py does, and how it tells a mistake of its user."""

import ast
import os
import sys
import traceback
from typing import Any, NoReturn

from flax_augtl import interruption, prediction, run_directory
from flax_augtl.printable import for_terminal
from flax_augtl.run import load_run, train
from flax_augtl.training import metrics
from flax_augtl.training.log import describe

MODES = ("train", "evaluate", "predict", "study", "export")


def run(flags: Any) -> None:
    """Do what `flags.mode` says; a mistake of the user ends the program with a sentence and exit code 1."""
    try:
        _required(flags, "workdir")
        act = {"train": _train, "evaluate": _evaluate, "predict": _predict, "study": _study, "export": _export}[flags.mode]
        with interruption.handled():
            act(flags)
    except KeyboardInterrupt as error:
        again = " The same command goes on from the last checkpoint." if flags.mode in ("train", "study") else ""
        print(f"\nInterrupted.{again}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 130))
    except Exception as error:
        exit_with(error, flags.traceback)


def exit_with(error: Exception, show_traceback: bool) -> NoReturn:
    """End the program with what went wrong: a sentence for a mistake of the user, the traceback for one of the program."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(os.path.abspath(__file__))
    from_flags = any(name in type(error).__module__ for name in ("absl", "ml_collections")) or any(
        os.sep + "ml_collections" + os.sep in frame.filename for frame in frames)
    # Errors of use are raised by this package itself; what comes from deeper down is a fault of the program.
    expected = isinstance(error, ValueError) and bool(frames) and frames[-1].filename.startswith(ours)
    if show_traceback or not (expected or from_flags):
        raise error
    print(for_terminal(f"error: {_sentence(error)}"), file=sys.stderr)
    sys.exit(1)


def _sentence(error: Exception) -> str:
    """Return an error's message; ml_collections puts that of an unknown field into quotes, sometimes twice."""
    message = str(error)
    if not isinstance(error, (KeyError, AttributeError)):
        return message
    for _ in range(2):
        try:
            message = str(ast.literal_eval(message))
        except (SyntaxError, ValueError):
            break
    return "There is no field " + message.replace("\n", ". ")


def _required(flags: Any, name: str) -> Any:
    value = getattr(flags, name)
    if value is None:
        example = {"workdir": "runs/first", "config": "configs/digits.py", "images": "photos/"}[name]
        raise ValueError(f"--mode={flags.mode} needs --{name}, such as --{name}={example}.")
    return value


def _train(flags: Any) -> None:
    from flax_augtl.study.variants import train_variants
    config = _required(flags, "config")
    if config.variants:
        train_variants(config, flags.workdir, extend=flags.extend)
    else:
        train(config, flags.workdir, extend=flags.extend)


def _study(flags: Any) -> None:
    from flax_augtl.study.grid import study
    study(_required(flags, "config"), flags.workdir)


def _evaluate(flags: Any) -> None:
    run = load_run(flags.workdir, step=flags.step)
    result = run.evaluate(flags.split)
    confusion = result.pop("confusion")
    print(f"{flags.split}, step {run.step}: {describe(result)}")
    for name in ("top5", "calibration_error"):
        print(f"  {name} {result[name]:.4f}")
    print(f"  {'label':24} {'n':>6} {'accuracy':>9}  most often taken for")
    for row in metrics.class_table(confusion, run.class_names):
        accuracy = "–" if row["accuracy"] is None else f"{row['accuracy']:.4f}"
        print(for_terminal(f"  {row['label'][:24]:24} {row['n']:6} {accuracy:>9}  {row['taken_for'] or ''}"))


def _predict(flags: Any) -> None:
    images = _required(flags, "images")
    run = load_run(flags.workdir, step=flags.step)
    rows, unreadable = prediction.predict_files(run, images)
    path = run.workdir / run_directory.PREDICTIONS
    run_directory.write_text(path, prediction.as_csv(rows))
    print(prediction.as_table(rows))
    print(f"\n{len(rows)} pictures, in full in {path}")
    if unreadable:
        raise ValueError(f"{len(unreadable)} pictures could not be read:\n  " + "\n  ".join(
            f"{path}: {reason}" for path, reason in unreadable.items()))


def _export(flags: Any) -> None:
    from flax_augtl.export import export
    for path in export(load_run(flags.workdir, step=flags.step), flags.format):
        print(path)
