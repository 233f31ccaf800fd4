"""What each mode of main.py does, and how it tells a mistake of its user."""

import ast
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from absl.flags import FlagValues
from ml_collections import ConfigDict, config_flags

from flax_augtl import distributed, heap, interruption, prediction, run_directory
from flax_augtl.printable import for_terminal, on_one_line
from flax_augtl.run import load_run, train
from flax_augtl.training import metrics
from flax_augtl.training.log import describe

MODES = ("train", "evaluate", "predict", "study", "export")
# Flags that the other modes would not look at.
ONLY = {"config": ("train", "study"), "extend": ("train",), "profile": ("train",), "dry_run": ("study",),
        "cells": ("study",), "split": ("evaluate",), "images": ("predict",), "format": ("export",),
        "max_pixels": ("predict",), "step": ("evaluate", "predict", "export")}


def run(flags: Any) -> None:
    """Do what `flags.mode` says; a mistake of the user ends the program with a sentence and exit code 1."""
    heap.limit_heaps()
    try:
        _keep_compilations()
        _required(flags, "workdir")
        _belonging(flags)
        _start(flags)
        act = {"train": _train, "evaluate": _evaluate, "predict": _predict, "study": _study, "export": _export}[flags.mode]
        with interruption.handled(training=flags.mode in ("train", "study")):
            act(flags)
            # None leaves while another still works: those that are left would take it for dead.
            distributed.wait()
    except KeyboardInterrupt as error:
        again = " The same command goes on from the last checkpoint." if flags.mode in ("train", "study") else ""
        print(f"\nInterrupted.{again}", file=sys.stderr)
        code = getattr(error, "exit_code", 130)
        if not getattr(error, "agreed", False):
            distributed.leave(code)
        sys.exit(code)
    except Exception as error:
        if jax.distributed.is_initialized():
            if not _tell(error, flags.traceback):
                traceback.print_exception(error)
            distributed.leave(1)
        exit_with(error, flags.traceback)


def _keep_compilations() -> None:
    """Keep what takes long to compile in the user's cache folder, unless the user said where, for later starts."""
    from flax_augtl.data.scan import cache_folder
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))


def _start(flags: Any) -> None:
    """Find the other processes, if there are any, and say so; all but the first then print nothing but that and mistakes."""
    distributed.start(flags.coordinator, flags.num_processes, flags.process_id)
    if jax.process_count() > 1:
        print(distributed.describe(), file=sys.stderr, flush=True)
        distributed.require_same_settings({f"--{name}": flags[name].value for name in ("mode", *ONLY) if name != "config"})
    if not distributed.is_first():
        sys.stdout = open(os.devnull, "w")


def exit_with(error: Exception, show_traceback: bool) -> NoReturn:
    """End the program with what went wrong: a sentence for a mistake of the user, the traceback for one of the program."""
    if not _tell(error, show_traceback):
        raise error
    sys.exit(1)


def _tell(error: Exception, show_traceback: bool) -> bool:
    """Say what went wrong if it is a mistake of the user, in a sentence, and return whether it is."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(os.path.abspath(__file__))
    from_flags = any(name in type(error).__module__ for name in ("absl", "ml_collections")) or any(
        os.sep + "ml_collections" + os.sep in frame.filename for frame in frames)
    # Errors of use are raised by this package itself; what comes from deeper down is a fault of the program.
    expected = isinstance(error, ValueError) and bool(frames) and frames[-1].filename.startswith(ours)
    if show_traceback or not (expected or from_flags):
        return False
    print(for_terminal(f"error: {_sentence(error)}"), file=sys.stderr)
    return True


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
    if not value:
        example = {"workdir": "runs/first", "config": "configs/digits.py", "images": "photos/"}[name]
        raise ValueError(f"--mode={flags.mode} needs --{name}, such as --{name}={example}.")
    return value


def _belonging(flags: Any) -> None:
    """Raise ValueError if a flag was given that this mode has no use for."""
    for name, modes in ONLY.items() if isinstance(flags, FlagValues) else ():
        if flags[name].present and flags.mode not in modes:
            why = (f": the run in {flags.workdir} has its own" if name == "config" else
                   f": it belongs to --mode={' and --mode='.join(modes)}")
            raise ValueError(f"--{name} has no effect with --mode={flags.mode}{why}. Leave it out.")


def _train(flags: Any) -> None:
    from flax_augtl.study.variants import train_variants
    config = _required(flags, "config")
    if config.variants:
        _not_overridden(config, _overrides(flags))
        train_variants(config, flags.workdir, extend=flags.extend, profile=flags.profile)
    else:
        train(config, flags.workdir, extend=flags.extend, profile=flags.profile)


def _overrides(flags: Any) -> set[str]:
    """Return the fields of the configuration that the command line sets, as `head.preset`."""
    return set(config_flags.get_override_values(flags["config"])) if isinstance(flags, FlagValues) else set()


def _not_overridden(config: ConfigDict, overrides: set[str]) -> None:
    """Raise ValueError if the command line sets a field that every variant sets anew: it would have no effect."""
    for name, variant in config.variants.items():
        for field in sorted(overrides & set(_dotted(variant))):
            raise ValueError(f"--config.{field} has no effect: the variants of {config.name} set that field themselves. "
                             f"Give --config.variants.{name}.{field}, and so for each of {', '.join(config.variants)}.")


def _dotted(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Yield the names of all fields, as `head.preset`."""
    for name, value in config.items():
        yield from _dotted(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else (prefix + name,)


def _study(flags: Any) -> None:
    from flax_augtl.study.study import study
    if jax.process_count() > 1:
        raise ValueError("The workers of a study are independent programs: start the same command on every machine, without "
                         "--coordinator, with one --workdir on a file system that all of them share. They claim cells.")
    study(_required(flags, "config"), flags.workdir, dry_run=flags.dry_run, part=_part(flags.cells))


def _part(text: str) -> tuple[int, int] | None:
    """Return (i, n) of --cells=i/n."""
    if not text:
        return None
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--cells={text} must be i/n with i from 1 to n, such as --cells=1/4.")
    return int(number), int(count)


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
        print(on_one_line(f"  {row['label'][:24]:24} {row['n']:6} {accuracy:>9}  {row['taken_for'] or ''}"))


def _predict(flags: Any) -> None:
    images = _required(flags, "images")
    run = load_run(flags.workdir, step=flags.step)
    if not distributed.is_first():
        return
    rows, unreadable = prediction.predict_files(run, images, max_pixels=flags.max_pixels)
    path = run.workdir / run_directory.PREDICTIONS
    if rows:  # Else those of an earlier start stay.
        run_directory.write_text(path, prediction.as_csv(rows))
        print(prediction.as_table(rows))
        print(f"\n{len(rows)} pictures, in full in {path}")
    if unreadable:
        raise ValueError(f"{len(unreadable)} picture{'s' * (len(unreadable) != 1)} could not be read:\n  " + "\n  ".join(
            f"{path}: {reason}" for path, reason in unreadable.items()))


def _export(flags: Any) -> None:
    from flax_augtl.export import export
    run = load_run(flags.workdir, step=flags.step)
    for path in export(run, flags.format) if distributed.is_first() else ():
        print(path)
