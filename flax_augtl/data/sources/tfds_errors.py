"""Explain why TFDS cannot open a dataset, and say what to do."""

import os
import re

from flax_augtl.data.errors import DataError, nearest

# {folder of TFDS whose datasets are not labelled images: what they contain}.
_OTHER_KINDS = {
    "audio": "sounds",
    "d4rl": "records of reinforcement learning",
    "graphs": "graphs",
    "nearest_neighbors": "vectors",
    "object_detection": "images with several objects (object detection)",
    "question_answering": "questions and answers",
    "ranking": "rankings",
    "recommendation": "ratings",
    "rl_unplugged": "records of reinforcement learning",
    "rlds": "records of reinforcement learning",
    "robomimic": "records of robots",
    "robotics": "records of robots",
    "structured": "tables",
    "summarization": "texts",
    "text": "texts",
    "text_simplification": "texts",
    "time_series": "time series",
    "translate": "texts",
    "video": "videos",
    "vision_language": "images with texts",
}
_INSTEAD = "Datasets of images with one class each are for instance oxford_flowers102, food101 and eurosat."
OURS = ("folder", "list", "digits", "glyphs")


def problem(name: str, error: Exception) -> DataError:
    """Return the error for the user when TFDS cannot make a builder.

    Args:
      name: config.data.name.
      error: the exception that TFDS raised.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    plain = name.split("/")[0].split(":")[0]
    if name.startswith("huggingface:"):
        return DataError(
            f'TFDS cannot open "{name}" ({_reason(error).rstrip(".")}). Download its images (hf download '
            "--repo-type=dataset), and read them as a folder: config.data.name=folder."
        )
    if isinstance(error, DatasetNotFoundError):
        return _unknown(name, plain)
    if isinstance(error, (ValueError, AssertionError)):
        if not re.fullmatch(r"\w+", plain):
            return _unknown(name, plain)
        return DataError(f'TFDS does not have "{name}": {_reason(error)}{_nearest_config(name, plain)}')
    if kind := _OTHER_KINDS.get(_category(plain)):
        return DataError(f"The TFDS dataset {name} does not hold images with one class each, but {kind}. {_INSTEAD}")
    if isinstance(error, ModuleNotFoundError):
        named = re.search(r"No module named '([^'.]+)", f"{error} {_first(error)}")
        module = named[1] if named else str(error.name)
        install = "'flax_augtl[tfds]'" if module == "tensorflow" else module
        return DataError(
            f"TFDS's code of {name} needs the Python module {module}, which is not installed: pip install {install}. "
            "Once the dataset is prepared, it is read without it."
        )
    if isinstance(error, FileNotFoundError):
        missing = os.path.basename(str(getattr(_first(error), "filename", None)))
        fault = f" lacks {missing}, a file that its code of {name} reads"
    else:
        fault = f" cannot make {name} ({_reason(error).rstrip('.')})"
    return DataError(
        f"TFDS {tfds.__version__}{fault}. Another version of tensorflow-datasets may work; or download the images, "
        "and read them as a folder or a list (config.data.name=folder, list)."
    )


def _unknown(name: str, plain: str) -> DataError:
    import tensorflow_datasets as tfds

    if name and os.path.exists(os.path.expanduser(name)):
        fields = "name=folder and config.data.root" if os.path.isdir(os.path.expanduser(name)) else (
            "name=list and config.data.train_list")  # fmt: skip
        return DataError(f'config.data.name="{name}" is a path. Set config.data.{fields}={name}.')
    known = [*OURS, *tfds.list_builders(with_community_datasets=False)]
    return DataError(
        f'config.data.name="{name}" is not known.{nearest(plain.lower(), known)} It is folder, list, digits or '
        "glyphs, or the name of a TFDS dataset, for instance oxford_flowers102."
    )


def _category(plain: str) -> str:
    """Return the folder of TFDS with the dataset's code, such as object_detection."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_cls(plain).__module__.split(".")[1]
    except Exception:  # The code itself may fail.
        return ""


def _nearest_config(name: str, plain: str) -> str:
    import tensorflow_datasets as tfds

    if "/" not in name:
        return ""
    try:
        configs = sorted(tfds.builder_cls(plain).builder_configs)
    except Exception:  # This is only a hint.
        return ""
    return nearest(name.split("/", 1)[1].split(":")[0], configs) if configs else f" {plain} has no configs."


def _reason(error: Exception) -> str:
    """Return the first line of a TFDS error, without the call that it repeats."""
    text = re.sub(r'Failed to construct dataset ".*?", builder_kwargs "\{.*?\}": ', "", str(error).strip(), flags=re.S)
    text = text.strip().split("\n")[0].split(". Here are")[0].rstrip(".:")
    return f"{text or type(error).__name__}."


def _first(error: BaseException) -> BaseException:
    """Return the first error of a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
