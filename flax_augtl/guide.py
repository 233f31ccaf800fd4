"""The short guide that the program prints without arguments and with --help."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from flax_augtl import shipped_configs


class Mode(NamedTuple):
    """A mode in the guide.

    Attributes:
      purpose: what the mode does, in a sentence.
      example: the flags of an example.
    """

    purpose: str
    example: str


# In the order in which a newcomer needs them.
GUIDE: Mapping[str, Mode] = {
    "train": Mode("Train a network, or resume the run in WORKDIR (the default).",
                  "--config=folder --config.data.root=photos --workdir=runs/photos"),
    "evaluate": Mode("Print the metrics of a run on its test split, or on another folder of images.",
                     "--mode=evaluate --workdir=runs/photos"),
    "predict": Mode("Classify new images with a run.",
                    "--mode=predict --workdir=runs/photos --images=new_photos"),
    "embed": Mode("Write what a layer of a run computes for images, as arrays.",
                  "--mode=embed --workdir=runs/photos --images=new_photos"),
    "inspect": Mode("Look for wrong labels, near-copies and odd images, without training.",
                    "--mode=inspect --config=folder --config.data.root=photos --workdir=runs/inspection"),
    "study": Mode("Find out which layers to freeze, and which head to use, on your images.",
                  "--mode=study --config=folder --config.data.root=photos --workdir=runs/study"),
    "compare": Mode("Show all runs below a folder side by side.",
                    "--mode=compare --workdir=runs"),
    "export": Mode("Write the network of a run for other programs: safetensors, ONNX or StableHLO.",
                   "--mode=export --workdir=runs/photos"),
}  # fmt: skip
MODES = tuple(GUIDE)
# Programs beside main.py: (command, purpose).
PROGRAMS = (
    ("python -m flax_augtl.pretrained CHECKPOINT", "Describe a checkpoint."),
    ("python -m flax_augtl.data prepare NAME", "Download and prepare a TFDS dataset."),
)


def program_name(argument: str) -> str:
    """Return how the user calls the program, such as `python main.py`, from the first word of the command line."""
    name = os.path.basename(argument)
    if name == "__main__.py":
        return "python -m flax_augtl"
    return f"python {name}" if name.endswith(".py") else name


def text(program: str) -> str:
    """Return the guide; `program` is how the user calls the program."""
    lines = [
        "Fine-tune ImageNet-trained networks on your own images, and learn which layers to freeze.",
        "",
        f"  {program} --config=CONFIG --workdir=DIR [--mode=MODE] [--config.FIELD=VALUE ...]",
        "",
        "Try it on data that come with the package, without a download or a GPU:",
        f"  {program} --config=digits --workdir=runs/digits",
        "",
        "Modes, with an example of each:",
    ]
    for name, mode in GUIDE.items():
        lines += [f"  {name:9} {mode.purpose}", f"            {program} {mode.example}"]
    lines += ["", "CONFIG is a Python file with a function get_config, or the name of one that comes with the package:"]
    lines += [f"  {name:11} {shipped_configs.summary(name)}" for name in shipped_configs.names()]
    lines += [
        "",
        "FIELD is any field of the configuration, such as --config.freeze=layer3 or --config.data.shots=10.",
        f"Every field, with its default and meaning, is in {shipped_configs.FOLDER / 'common.py'}.",
        "",
        "Other programs:",
    ]
    lines += [f"  {command:44} {purpose}" for command, purpose in PROGRAMS]
    return "\n".join(lines)
