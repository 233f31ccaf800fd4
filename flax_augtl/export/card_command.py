"""The commands that a model card names: how the network was trained and exported."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from flax_augtl.export.settings import ExportSettings
from flax_augtl.pretrained.fetch import without_secrets
from flax_augtl.run import Run


def commands(run: Run, settings: ExportSettings, hub: str | None) -> str:
    """Return the section of the card."""
    train = ["python main.py --config=configs/common.py", f"--workdir={shlex.quote(run.workdir.name)}"]
    train += [f"--config.{name}={shlex.quote(_text(value))}" for name, value in _changed(run.config.to_dict())]
    made = [
        "python main.py",
        "--mode=export",
        f"--workdir={shlex.quote(run.workdir.name)}",
        f"--format={settings.format}",
    ]
    made += [
        f"--{name}={value}"
        for name, value, usual in (
            ("input", settings.input, "uint8"),
            ("outputs", ",".join(settings.outputs), "probabilities"),
            ("weights", settings.weights, "float32"),
            ("push_to_hub", hub, None),
        )
        if value != usual
    ]
    return (
        "## The commands that made it\n\nPaths are shortened to their last part.\n\n```bash\n"
        + " \\\n  ".join(train)
        + "\n"
        + " ".join(made)
        + "\n```"
    )


def _changed(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that are not as in configs/common.py; all that are set where that file is not at hand."""
    try:
        from configs import common

        usual = dict(_flat(common.get_config().to_dict()))
    except (ImportError, AttributeError):
        usual = {}
    for name, value in _flat(without_paths(config)):
        if name != "name" and value != usual.get(name) and (value is not None or name in usual):
            yield name, value


def shortened(value: Any) -> Any:
    """Return a field's value without the folders of this machine, and without secrets in an address."""
    if not isinstance(value, str):
        return value
    if "://" in value:
        return without_secrets(value)
    # "owner/repository" on the Hub has one slash; a longer path is one of this machine.
    return (
        value
        if value.count("/") < 2 and not value.startswith((".", "~", "/"))
        else value.rstrip("/").rpartition("/")[2]
    )


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration whose texts are `shortened`."""
    return {
        name: without_paths(value) if isinstance(value, Mapping) else shortened(value) for name, value in config.items()
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.") if prefix + name != "variants" else ()
        else:
            yield prefix + name, value


def _text(value: Any) -> str:
    return str(tuple(value)) if isinstance(value, (list, tuple)) else str(value)
