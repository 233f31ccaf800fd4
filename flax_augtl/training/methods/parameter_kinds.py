"""Train one kind of parameters only: those of batch norm, or the biases.

Frankle, Schwab, Morcos, "Training BatchNorm and Only BatchNorm", ICLR 2021 (arXiv 2003.00152); Ben Zaken, Goldberg,
Ravfogel, "BitFit", ACL 2022 (arXiv 2106.10199).
"""

import dataclasses
from collections.abc import Collection


@dataclasses.dataclass(frozen=True)
class ParameterKind:
    """`norm`: scale and bias of every batch norm. `bias`: every bias, that of batch norm included."""

    kind: str

    def trains(self, name: str, beside: Collection[str]) -> bool:
        """Tell whether a parameter trains.

        Args:
          name: of the parameter in its layer.
          beside: the names of all parameters of its layer.
        """
        return name == "bias" if self.kind == "bias" else "scale" in beside
