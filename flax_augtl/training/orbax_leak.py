"""TensorStore's specifications of where arrays lie, of which Orbax makes one for each array of each checkpoint.

For each it asks TensorStore for `KvStore.Spec.to_json`, which loses four strings, 257 bytes, at every call (0.1.71 to
0.1.86 do). A long run of many checkpoints would grow by that. They differ in the array's name alone.
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

_NAME = "_build_ocdbt_kvstore_tspec"
_PARAMETERS = ["directory", "name", "process_spec", "write_options", "temporary_metadata_context"]


def once_a_directory(build: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a function that gives what `build(directory, name=None, **settings)` does, but calls it once a directory."""
    # A checkpoint has a few directories, and no other checkpoint has them.
    nameless = functools.lru_cache(maxsize=16)(functools.partial(build, name=None))

    @functools.wraps(build)
    def built(directory: str, name: str | None = None, **settings: Any) -> dict[str, Any]:
        specification = copy.deepcopy(nameless(directory, **settings))
        if name is not None:
            specification["path"] = name
        return specification

    return built


def resolve_once_a_directory() -> None:
    """Have Orbax resolve one specification a directory. An Orbax that does it in another way is left as it is."""
    try:
        from orbax.checkpoint._src.serialization import tensorstore_utils
    except ImportError:
        return
    build = getattr(tensorstore_utils, _NAME, None)
    if (
        build is not None
        and not hasattr(build, "__wrapped__")
        and list(inspect.signature(build).parameters) == _PARAMETERS
    ):
        setattr(tensorstore_utils, _NAME, once_a_directory(build))
