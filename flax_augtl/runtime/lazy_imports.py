"""Public names that are imported when they are first used.

A worker process of the loader needs some modules of this package and none of JAX, whose import takes seconds.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names_of(
    package: str, modules: Mapping[str, str], aliases: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package (PEP 562).

    Args:
      package: its name.
      modules: {public name: the module that has it}, relative to the package, or absolute if it begins with
        `flax_augtl.`. Modules of the package can be had by their names, too.
      aliases: {public name: the module, relative to the package, that stands for it}.
    """

    def absolute(module: str) -> str:
        return module if module.startswith("flax_augtl.") else f"{package}.{module}"

    def get(name: str) -> Any:
        if name in modules:
            value = getattr(importlib.import_module(absolute(modules[name])), name)
            setattr(sys.modules[package], name, value)  # The next time nobody asks here.
            return value
        module = absolute((aliases or {}).get(name, name))
        try:
            if not name.startswith("__"):
                return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
        raise AttributeError(f"The package {package} has no name {name}.")

    return get
