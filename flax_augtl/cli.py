"""The command line: parse it, run its mode, and report errors."""

import ast
import os
import sys
import time
import traceback
from typing import Any, NoReturn, cast

import jax
from absl.flags import FlagValues, UnrecognizedFlagError
from ml_collections import config_flags

from flax_augtl import shipped_configs
from flax_augtl.config import overrides
from flax_augtl.config.check import problems_of
from flax_augtl.config.convert import as_written, errors_in
from flax_augtl.errors import UserError
from flax_augtl.modes import MODES, required
from flax_augtl.runtime import determinism, distributed, malloc, signals
from flax_augtl.runtime.text import for_terminal

# Flags that the other modes would not look at.
ONLY = {
    "config": ("train", "study", "inspect"),
    "extend": ("train",),
    "profile": ("train",),
    "dry_run": ("train", "study"),
    "cells": ("study",),
    "data_root": ("train", "evaluate", "inspect", "export"),
    "split": ("evaluate",),
    "images": ("predict", "embed"),
    "max_pixels": ("predict", "embed"),
    "calibrate": ("evaluate",),
    "unknown_below": ("predict",),
    "views": ("evaluate", "predict"),
    "explain": ("predict",),
    "neighbours": ("predict",),
    "layer": ("embed",),
    "pooled": ("embed",),
    "output": ("evaluate", "predict", "embed"),
    "format": ("export",),
    "step": ("evaluate", "predict", "embed", "export"),
    "input": ("export",),
    "outputs": ("export",),
    "weights": ("export",),
    "push_to_hub": ("export",),
}


def parse(flags: FlagValues, arguments: list[str]) -> list[str]:
    """Parse the command line and return the arguments that are no flags.

    Raises:
      UserError: a field of the configuration does not exist or gets an invalid value.
      absl.flags.Error: a flag is wrong.
    """
    overrides.check_groups(arguments)
    arguments, wrong = overrides.take_out_wrong(shipped_configs.resolve(arguments))
    arguments, cleared = overrides.take_out_none(arguments)
    given, sys.argv = sys.argv, arguments  # ml_collections reads overrides from there.
    try:
        left = flags(arguments)
    except UnrecognizedFlagError as error:
        if sentence := overrides.unknown_flag(error.flagname, str(error.flagvalue).partition("=")[2] or None, flags):
            raise UserError(sentence) from error
        raise
    finally:
        sys.argv = given
    if flags["config"].value is not None:
        for field in cleared:
            overrides.clear(flags.config, field)
            config_flags.get_override_values(flags["config"])[field] = None
        overrides.one_unit(flags.config, config_flags.get_override_values(flags["config"]))
        if wrong:
            raise errors_in([*wrong, *problems_of(as_written(flags.config))])
    return left


def run(flags: Any) -> None:
    """Run the mode `flags.mode`. An error of the user ends the program with a sentence and exit code 1.

    The exit code is `predict_mode.SOME_UNREADABLE` if some, but not all, of the images to predict could not be read.
    """
    malloc.limit_heaps()
    try:
        _keep_compilations()
        required(flags, "workdir")
        _belonging(flags)
        if flags.mode in ("train", "study") and flags.config is not None and flags.config.get("deterministic"):
            determinism.start(flags.workdir)  # Before JAX looks for devices.
        _start(flags)
        act = MODES[flags.mode]
        with signals.handled(training=flags.mode in ("train", "study")):
            code = act(flags)
            # Leave together: processes that still work would take one that left for dead.
            distributed.wait()
    except KeyboardInterrupt as error:
        again = {
            "train": " The same command resumes from the last checkpoint.",
            "study": " The same command resumes from the last checkpoint.",
            "predict": " The same command goes on with the images that are left.",
        }.get(flags.mode, "")
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
    if code:
        sys.exit(code)


def _keep_compilations() -> None:
    """Keep compiled functions for later starts in the user's cache folder, unless JAX is told another folder."""
    from flax_augtl.runtime import cache_limit
    from flax_augtl.runtime.paths import cache_folder

    cache_limit.trim(cache_folder(), cache_limit.limit(), time.time())
    if not cast(Any, jax.config).jax_compilation_cache_dir:  # JAX adds its attributes at runtime.
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))


def _start(flags: Any) -> None:
    """Join the other processes of the run, if there are any; from then on, only the first one prints to stdout."""
    distributed.start(flags.coordinator, flags.num_processes, flags.process_id)
    if jax.process_count() > 1:
        print(distributed.describe(), file=sys.stderr, flush=True)
        distributed.require_same_settings(
            {f"--{name}": flags[name].value for name in ("mode", *ONLY) if name != "config"}
        )
    if not distributed.is_first():
        sys.stdout = open(os.devnull, "w")


def exit_with(error: Exception, show_traceback: bool) -> NoReturn:
    """End the program with a sentence about an error of the user, or with the traceback of a bug."""
    if not _tell(error, show_traceback):
        raise error
    sys.exit(1)


def _tell(error: Exception, show_traceback: bool) -> bool:
    """Print a sentence about an error of the user, and return whether it was printed.

    Bugs are not printed, nor are errors of which the user wants to see the traceback.
    """
    frames = traceback.extract_tb(error.__traceback__)
    from_flags = any(name in type(error).__module__ for name in ("absl", "ml_collections")) or any(
        os.sep + "ml_collections" + os.sep in frame.filename for frame in frames
    )
    expected = isinstance(error, UserError) or from_flags
    if not expected:
        error.add_note(
            "This is an error in flax_augtl, not in what you asked for. Please report it, with this traceback."
        )
    if show_traceback or not expected:
        return False
    print(for_terminal(f"error: {_sentence(error)}"), file=sys.stderr)
    return True


def _sentence(error: Exception) -> str:
    """Return an error's message, without the quotes that ml_collections puts around that of an unknown field."""
    message = str(error)
    if not isinstance(error, (KeyError, AttributeError)):
        return message
    for _ in range(2):
        try:
            message = str(ast.literal_eval(message))
        except (SyntaxError, ValueError):
            break
    return "There is no field " + message.replace("\n", ". ")


def _belonging(flags: Any) -> None:
    """Raise UserError if a flag was given that has no effect in this mode."""
    for name, modes in ONLY.items() if isinstance(flags, FlagValues) else ():
        if flags[name].present and flags.mode not in modes:
            why = (
                f": the run in {flags.workdir} has its own"
                if name == "config"
                else f": it belongs to --mode={' and --mode='.join(modes)}"
            )
            raise UserError(f"--{name} has no effect with --mode={flags.mode}{why}. Leave it out.")
