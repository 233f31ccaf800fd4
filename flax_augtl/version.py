"""The version of this package."""

import importlib.metadata
import tomllib
from pathlib import Path

_NAME = "flax_augtl"


def version_in(folder: Path) -> str:
    """Return the version of the package whose checkout, or parent folder after an installation, is `folder`."""
    # A checkout may be newer than the metadata of an earlier installation.
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8")).get("project", {})
        if project.get("name") == _NAME:
            return str(project["version"])
    except (OSError, ValueError, KeyError, AttributeError):
        pass  # The package is installed, and the folder is another project's or nobody's.
    try:
        return importlib.metadata.version(_NAME)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


__version__ = version_in(Path(__file__).parents[1])
