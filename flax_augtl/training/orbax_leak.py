"""A workaround for a memory leak: Orbax asks TensorStore for a specification of each array of each checkpoint.

`KvStore.Spec.to_json` leaks four strings, 257 bytes, per call (TensorStore 0.1.71 to 0.1.86). The memory of a run with
many checkpoints would grow. The specifications of a directory differ in the array's name alone, so one call is enough.
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

# The first version that has the function below; pyproject.toml asks for it.
SINCE = "0.12.5"
_NAME = "_build_ocdbt_kvstore_tspec"
_PARAMETERS = ["directory", "name", "process_spec", "write_options", "temporary_metadata_context"]


def once_a_directory(build: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a function like `build(directory, name=None, **settings)` that calls it once per directory."""
    # A checkpoint has a few directories of its own, so few need to be kept.
    nameless = functools.lru_cache(maxsize=16)(functools.partial(build, name=None))

    @functools.wraps(build)
    def built(directory: str, name: str | None = None, **settings: Any) -> dict[str, Any]:
        specification = copy.deepcopy(nameless(directory, **settings))
        if name is not None:
            specification["path"] = name
        return specification

    return built


def resolve_once_a_directory() -> None:
    """Have Orbax resolve one specification per directory; do nothing if Orbax has changed that function."""
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
