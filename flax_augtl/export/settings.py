"""What an export is to hold."""

import dataclasses

from flax_augtl.errors import UserError

FORMATS = ("safetensors", "onnx", "stablehlo")
INPUTS = ("uint8", "float")
OUTPUTS = ("probabilities", "logits", "features", "familiarity")
WEIGHTS = ("float32", "bfloat16", "float16")


class ExportError(UserError):
    """A run cannot be exported as asked."""


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """Settings of an export; the flags of `--mode=export`.

    Attributes:
      format: one of `FORMATS`.
      input: what an exported program takes: `uint8` pixels [N, S, S, 3] as the JSON beside it says how to crop them, or
        `float` ones that are normalised as well.
      outputs: what it gives, some of `OUTPUTS`, in this order.
      weights: the type in which matrices and kernels are stored, one of `WEIGHTS`; biases and norms stay float32, and
        so does the computation.
    """

    format: str = "safetensors"
    input: str = "uint8"
    outputs: tuple[str, ...] = ("probabilities",)
    weights: str = "float32"

    def __post_init__(self):
        if isinstance(self.outputs, str):
            object.__setattr__(self, "outputs", tuple(name.strip() for name in self.outputs.split(",")))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        if self.format not in FORMATS:
            raise ExportError(f"--format={self.format} is unknown. Formats: {', '.join(FORMATS)}.")
        for name, value, choices in (
            ("input", self.input, INPUTS),
            ("weights", self.weights, WEIGHTS),
            *(("outputs", each, OUTPUTS) for each in self.outputs),
        ):
            if value not in choices:
                raise ExportError(f"--{name}={value} is unknown. Choices: {', '.join(choices)}.")
        if not self.outputs or len(set(self.outputs)) < len(self.outputs):
            raise ExportError(
                f"--outputs={','.join(self.outputs)} must name each output once. Choices: {', '.join(OUTPUTS)}."
            )
        if self.format == "safetensors":
            for name in ("input", "outputs"):
                if getattr(self, name) != getattr(ExportSettings, name):
                    raise ExportError(
                        f"--{name} has no effect with --format=safetensors, which holds weights and no "
                        "program. Leave it out."
                    )
