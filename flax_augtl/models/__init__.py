"""Source networks in Linen: each is a chain of named layer groups that can be cut at any of them."""

from flax_augtl.models.registry import MODELS, create_model, model_names

__all__ = ["MODELS", "create_model", "model_names"]
