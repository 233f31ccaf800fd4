"""The configs that come with the package, by name: `--config=folder` means flax_augtl/configs/folder.py."""

import ast
import os
from collections.abc import Sequence
from pathlib import Path

from flax_augtl.config.nearest import did_you_mean
from flax_augtl.errors import UserError

FOLDER = Path(__file__).parent / "configs"


def names() -> tuple[str, ...]:
    """Return the names of the configs, in alphabetical order."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_")))


def summary(name: str) -> str:
    """Return the first line of a config's docstring."""
    return (ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))) or "").partition("\n")[0]


def path_of(config: str) -> str:
    """Return the file that `--config` names.

    If there is no file configs/folder.py, `configs/folder.py` means the shipped config, so that the commands in the
    documentation work in any folder.

    Args:
      config: a file, or the name of a shipped config; `:ARGUMENT` may follow, for the file's `get_config`.

    Raises:
      UserError: there is neither such a file nor such a config.
    """
    file, colon, argument = config.partition(":")
    if not file or os.path.isfile(file):
        return config
    parent, name = os.path.split(file)
    name = name.removesuffix(".py")
    if parent in ("", "configs") and name in names():
        return f"{FOLDER / name}.py{colon}{argument}"
    if parent or file.endswith(".py"):
        return config
    raise UserError(
        f"--config={file}: there is no such file, and no config of that name comes with flax_augtl."
        + did_you_mean(name, names())
        + f" These come with it: {', '.join(names())}."
    )


def resolve(arguments: Sequence[str]) -> list[str]:
    """Return the command line with the value of `--config` replaced by the path of its file."""
    found = list(arguments)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            if equals:
                found[index] = f"{flag}={path_of(value)}"
            elif index + 1 < len(arguments):
                found[index + 1] = path_of(arguments[index + 1])
    return found
