"""Checks that a run may resume in a directory: same configuration, same data, and the same in all processes."""

from collections.abc import Sequence

from etils import epath
from flax import traverse_util

from flax_augtl.config import added_fields
from flax_augtl.config.convert import to_json
from flax_augtl.config.schema import Config
from flax_augtl.config.unused_fields import refuse_unused
from flax_augtl.errors import UserError
from flax_augtl.runtime import distributed
from flax_augtl.workdir import files
from flax_augtl.workdir.description import read_config, read_splits

# Fields that `--extend` may change: lengths and schedules.
EXTENSIBLE = (
    "steps",
    "epochs",
    "examples",
    "learning_rate",
    "schedule",
    "early_stopping",
    "evaluate_every_steps",
    "evaluate_every_epochs",
    "evaluate_every_examples",
    "checkpoint_every_steps",
    "checkpoint_every_epochs",
    "checkpoint_every_examples",
    "keep_checkpoints",
    "log_every_steps",
    "on_nan",
    "on_nan_limit",
)
# Fields of config.data that may differ on another machine: how images get to the devices.
_MACHINE = ("threads", "workers", "cache_gb", "cache_dir", "scan_dir")
# Fields that may differ between the hosts of a run; the weights and the data themselves are compared.
_PLACES = (
    "weights",
    *(f"data.{name}" for name in (*_MACHINE, "root", "train_list", "val_list", "test_list", "class_list")),
)


def check_processes(config: Config, extend: bool) -> None:
    """Raise UserError in every process if the processes have different configurations."""
    flat = traverse_util.flatten_dict(to_json(config), sep=".")
    distributed.require_same_settings(
        {"--extend": extend, **{f"config.{name}": value for name, value in flat.items() if name not in _PLACES}}
    )


def as_begun(config: Config, workdir: epath.Path) -> Config:
    """Return the configuration with which to resume the run in `workdir`; `config` itself if there is no run.

    A run of an earlier version keeps the behaviour of that version; see `added_fields`.
    """
    exists = (workdir / files.CONFIG).exists()
    return added_fields.continued(config, read_config(workdir)) if exists else config


def check_same(config: Config, workdir: epath.Path, extend: bool) -> None:
    """Check that `workdir` holds no run of another configuration, and, if `extend`, that it holds a run.

    Raises:
      UserError: it holds another run, or none that could be extended.
    """
    if not (workdir / files.CONFIG).exists():
        if extend:
            raise UserError(f"--extend continues a run, but {workdir} holds none.")
        # Without a committed checkpoint, the folder is from a run that was killed before config.json was written.
        checkpoints = workdir / files.CHECKPOINTS
        if checkpoints.exists() and any(path.name.isdecimal() for path in checkpoints.iterdir()):
            raise UserError(f"{workdir} holds checkpoints without {files.CONFIG}; choose another --workdir.")
        # A run of an earlier version may have such fields, so only a new run is refused.
        refuse_unused(config)
        return
    old = read_config(workdir)
    old, new = added_fields.filled(old), to_json(added_fields.continued(config, old))
    for values in (old, new):
        values["data"] = {name: value for name, value in values["data"].items() if name not in _MACHINE}
        values["features"].pop("cache_gb")
        for name in ("check_replicas_every", "report", "study"):  # They do not change a run.
            values.pop(name, None)
    if extend:
        old, new = ({name: value for name, value in values.items() if name not in EXTENSIBLE} for values in (old, new))
    if found := files.differences(old, new):
        hint = (
            "--extend changes lengths and schedule only"
            if extend
            else "Choose another --workdir, or, to change lengths or schedule only, add --extend"
        )
        raise UserError(f"{workdir} holds a run with another configuration:\n  " + "\n  ".join(found) + f"\n{hint}.")


def is_same(config: Config, workdir: epath.Path) -> bool:
    """Return whether the run in `workdir` has exactly this configuration, lengths and schedule included."""
    old = read_config(workdir)
    new = to_json(added_fields.continued(config, old))
    return all(added_fields.filled(old).get(name) == new.get(name) for name in EXTENSIBLE)


def check_data(fingerprint: str, workdir: epath.Path) -> None:
    """Check that the run in `workdir` was started with the same data.

    Args:
      fingerprint: fingerprint of the dataset.
      workdir: the run directory.

    Raises:
      UserError: it was started with other data.
    """
    path = workdir / files.SPLITS
    if path.exists() and read_splits(path).get("fingerprint") != fingerprint:
        raise UserError(
            f"The data have changed since the run in {workdir} was started: images, labels or splits are not "
            f"those of {files.SPLITS} there. Restore them, or choose another --workdir." + _hint_of_split_seed(workdir)
        )


def _hint_of_split_seed(workdir: epath.Path) -> str:
    """Return a hint for datasets made in Python, which had another test split in earlier versions; "" for new runs."""
    config = workdir / files.CONFIG
    if not config.exists() or "split_seed" in read_config(workdir)["data"]:
        return ""
    return (
        " The run was begun by an earlier version, which carved a test split for each seed: if you made the dataset "
        "with dataset_from_arrays or dataset_from_files, give these data={'split_seed': None}."
    )


def check_split(ids: Sequence[str], split: str, workdir: epath.Path) -> None:
    """Check that examples are those of a split of the run in `workdir`, which may have been trained on others.

    Args:
      ids: ids of the examples.
      split: `train`, `val` or `test`.
      workdir: the run directory.

    Raises:
      UserError: the examples have changed.
    """
    path = workdir / files.SPLITS
    known = read_splits(path) if path.exists() else {}
    if split in known and set(ids) != set(known[split]):
        trained = len({*ids} & {*known.get("train", ())}) if split != "train" else 0
        raise UserError(
            f"The data have changed since {workdir} was trained: its {split} split had {len(known[split])} "
            f"examples, and of the {len(ids)} that it has now {len({*ids} - {*known[split]})} are others"
            + (f"; the network was trained on {trained} of them" if trained else "")
            + f". Restore the data; {path} has the ids."
        )
