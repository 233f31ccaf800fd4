"""Files from the Hugging Face Hub, through huggingface_hub: its cache, its offline mode, its resumed downloads."""

from pathlib import Path
from typing import Any

from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.runtime.text import first_line


def fetch(repository: str, name: str, revision: str | None) -> tuple[Path | None, str | None]:
    """Return (path in the cache, commit) of a file; (None, None) if the repository has no such file.

    Args:
      repository: "owner/name".
      name: of the file.
      revision: a branch, tag or commit; None is the default branch.

    Raises:
      CheckpointError: there is no such repository, revision or access, or no network and no copy in the cache.
    """
    # huggingface_hub takes half a second to import, and most checkpoints are local.
    import huggingface_hub
    from huggingface_hub import errors

    at = f"{repository}@{revision}" if revision else repository
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        # The cache also remembers which files a repository does not have.
        known = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if known is not None and not isinstance(known, str):
            return None, None
        raise CheckpointError(
            f"{at}: {name} is not in the cache, and the hub cannot be reached (no network, or offline mode). "
            "Connect once, or give the path of a local file."
        ) from error
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{at} is gated: accept its terms on its page, then `hf auth login`.") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"There is no {at} on the hub (or it is private), and no such local file.") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repository} on the hub has no revision {revision}.") from error
    except errors.EntryNotFoundError:
        return None, None
    except errors.HFValidationError as error:
        raise CheckpointError(f"There is no local file {at}, and it is not the name of a hub repository.") from error
    except Exception as error:  # The type depends on the HTTP library of the hub's version.
        raise CheckpointError(f"{at}: {name} could not be downloaded ({first_line(error)}).") from error
    return path, _commit(path)


def fetch_optional(repository: str, name: str, revision: str | None) -> Path | None:
    """Return the path of an optional file; None if it cannot be fetched for any reason."""
    try:
        return fetch(repository, name, revision)[0]
    except CheckpointError:
        return None


def front_matter(readme: Path) -> dict[str, Any]:
    """Return the YAML at the head of a repository's README; empty if there is none."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(readme).data.to_dict()
    except Exception:  # It is optional, and invalid YAML raises errors of many types.
        return {}


def _commit(path: Path) -> str | None:
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
