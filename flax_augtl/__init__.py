"""Fine-tune ImageNet-trained networks with their classification layer kept and augmented."""

from flax_augtl.pretrained import Source, load_source
from flax_augtl.run import Run, load_run, train

__all__ = ["Run", "Source", "load_run", "load_source", "train"]
