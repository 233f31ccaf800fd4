"""Public names that are imported when they are first used.

A worker process of the loader needs some modules of this package and none of JAX, whose import takes seconds.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names_of(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562).

    Args:
        package: its name.
        modules: {public name: the module of the package that has it}. Modules themselves can be had by their names, too.
    """

    def get(name: str) -> Any:
        if name in modules:
            value = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
            setattr(sys.modules[package], name, value)  # The next time nobody asks here.
            return value
        module = f"{package}.{name}"
        try:
            if not name.startswith("__"):
                return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
        raise AttributeError(f"The package {package} has no name {name}.")

    return get
