"""Public names that are imported at their first use.

The loader's worker processes import this package, but should not import JAX, which takes seconds.
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
      package: name of the package.
      modules: {public name: its module}. The module is relative to the package, or absolute if it begins with
        `flax_augtl.`. The package's modules themselves can be accessed by name, too.
      aliases: {alias: the module that it stands for}, relative to the package.
    """

    def absolute(module: str) -> str:
        return module if module.startswith("flax_augtl.") else f"{package}.{module}"

    def get(name: str) -> Any:
        if name in modules:
            value = getattr(importlib.import_module(absolute(modules[name])), name)
            setattr(sys.modules[package], name, value)  # Python does not call this function again for the name.
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
