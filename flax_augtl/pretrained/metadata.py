"""Reads descriptions of checkpoints: timm's and transformers' config.json, and this program's own notes."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from flax_augtl.data.images.preprocessing import LARGEST_SIDE, Preprocessing
from flax_augtl.pretrained import preprocessor_config, timm_preprocessing
from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.unsettled import Unsettled

NOTES = "flax_augtl"
"""Key of this program's notes in the metadata of a safetensors file: a JSON object, see `notes`."""

_TIMM_ALIASES = ("tv_", "ssl_", "swsl_", "gluon_")
_HARMLESS_ARGUMENTS = {"num_classes", "drop_rate", "drop_path_rate"}
_KERAS_PREPROCESSING = Preprocessing(
    channel_order="BGR", value_range=255.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0)
)


@dataclasses.dataclass(frozen=True)
class Description:
    """The description of a checkpoint; None or empty where nothing is known.

    Attributes:
      architecture: the network's name.
      preprocessing: of its training.
      class_names: of its classifier.
      settings: fields of the module that differ from the network's usual ones.
      terms: licence, attribution and the like.
      unsettled: preprocessing that it asks for and that is not supported; the user decides.
    """

    architecture: str | None = None
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    terms: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unsettled: tuple[Unsettled, ...] = ()

    def over(self, other: "Description") -> "Description":
        """Return this description, completed by the other where it says nothing."""
        return Description(
            self.architecture or other.architecture,
            self.preprocessing or other.preprocessing,
            self.class_names or other.class_names,
            {**other.settings, **self.settings},
            {**other.terms, **self.terms},
            self.unsettled if self.preprocessing else other.unsettled,
        )


def keras(settings: Mapping[str, Any]) -> Description:
    """Return the description of a network of keras.applications, whose family has `settings` there.

    Keras does not define the resizing: the usual 224 of 256, bilinear, is our choice.
    """
    return Description(preprocessing=_KERAS_PREPROCESSING, settings=dict(settings))


def notes(architecture, preprocessing, class_names, settings, terms) -> dict[str, Any]:
    """Return the notes that `from_notes` reads, as a dict for `json`."""
    return {
        "network": architecture,
        "preprocessing": preprocessing.to_json(),
        "class_names": list(class_names),
        "settings": dict(settings),
        "terms": dict(terms),
    }


def from_notes(text: str | Mapping[str, Any], where: str) -> Description:
    """Read the notes that this program writes into, or beside, its files."""
    try:
        found = json.loads(text) if isinstance(text, str) else text
        return _bounded(
            Description(
                found.get("network"),
                Preprocessing.from_json(found["preprocessing"]) if found.get("preprocessing") else None,
                tuple(map(str, found.get("class_names", ()))),
                dict(found.get("settings", {})),
                {str(k): str(v) for k, v in found.get("terms", {}).items()},
            ),
            where,
        )
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{where}: the notes of this program in it are damaged ({error}).") from error


def from_metadata(metadata: Mapping[str, str], where: str) -> Description:
    """Read the metadata of a safetensors file: this program's notes, and any licence or attribution."""
    said = Description(terms=_terms(metadata))
    return from_notes(metadata[NOTES], where).over(said) if NOTES in metadata else said


def from_config(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, where: str) -> Description:
    """Read a config.json of timm or of transformers.

    Args:
      config: the parsed config.json.
      preprocessor: the parsed preprocessor_config.json of transformers, if there is one.
      where: the checkpoint's name for messages.

    Returns:
      The description; empty if the file belongs to neither library.

    Raises:
      CheckpointError: it asks for something that is not supported.
    """
    try:
        found = _from_config(config, preprocessor or {}, where)
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{where}: its config.json or preprocessor_config.json is damaged ({error}).") from error
    return _bounded(found, where)


def _from_config(config: Mapping[str, Any], preprocessor: Mapping[str, Any], where: str) -> Description:
    if "architecture" in config:
        return _from_timm(config, where)
    if config.get("model_type") == "resnet" or "downsample_in_bottleneck" in config:
        return _from_transformers(config, preprocessor, where)
    if "model_type" in config:
        raise CheckpointError(
            f"{where} is a {config['model_type']} by its config.json, not a ResNet, a VGG or an AlexNet."
        )
    if preprocessor:
        preprocessing, unsettled = preprocessor_config.read(preprocessor)
        return Description(preprocessing=preprocessing, unsettled=tuple(unsettled))
    return Description()


def _bounded(found: Description, where: str) -> Description:
    """Refuse an image size that would take all memory."""
    if found.preprocessing is not None and not 0 < found.preprocessing.image_size <= LARGEST_SIDE:
        raise CheckpointError(
            f"{where}: image_size={found.preprocessing.image_size} is not within 1 and {LARGEST_SIDE}."
        )
    return found


def check_architecture(name: str, said: str | None, where: str):
    """Refuse weights of another architecture with the same tensors, e.g. resnetblur50.

    Raises:
      CheckpointError: `said`, from a config.json, is neither `name` nor another name of it.
    """
    plain = str(said or name)
    for alias in _TIMM_ALIASES:
        plain = plain.removeprefix(alias)
    plain = plain.removesuffix("_v1b")  # gluon's name of the v1.5 stride
    if plain != name:
        raise CheckpointError(
            f"{where} holds the weights of {said} by its config.json, which is not the same network as {name}, "
            "although tensor names and shapes are the same."
        )


def _terms(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries about the terms of use, under this program's names."""
    names = {
        "license": "licence",
        "licence": "licence",
        "license_name": "licence_name",
        "license_link": "licence_link",
        "origin_url": "origin_url",
        "paper_ids": "paper",
        "paper_name": "paper",
        "attribution": "attribution",
        "author": "attribution",
        "authors": "attribution",
        "copyright": "attribution",
        "citation": "citation",
        "source": "source",
    }
    terms = {}
    for key, value in found.items():
        name = names.get(key.lower())
        if name and value:
            terms[name] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return terms


def from_card(card: Mapping[str, Any]) -> Description:
    """Read the front matter of a hub repository's README."""
    return Description(terms=_terms({k: v for k, v in card.items() if k.startswith("licen")}))


def _from_timm(config: Mapping[str, Any], where: str) -> Description:
    changed = set(config.get("model_args") or {}) - _HARMLESS_ARGUMENTS
    if changed:
        raise CheckpointError(
            f"{where}: its config.json changes the network ({', '.join(sorted(changed))}), which is not supported."
        )
    # Early files have these fields at the top.
    fields = config.get("pretrained_cfg") or config
    if fields.get("input_size") and fields["input_size"][0] != 3:
        raise CheckpointError(f"{where} takes inputs of {fields['input_size']}; only RGB is supported.")
    preprocessing, unsettled = timm_preprocessing.read(fields)
    labels = config.get("label_names") or fields.get("label_names") or ()
    described = config.get("label_descriptions") or fields.get("label_descriptions") or {}
    return Description(
        config["architecture"],
        preprocessing,
        tuple(str(described.get(label, label)) for label in labels),
        terms=_terms({**config, **fields}),
        unsettled=tuple(unsettled),
    )


def _from_transformers(config: Mapping[str, Any], preprocessor: Mapping[str, Any], where: str) -> Description:
    unsupported = [
        f"{key}={config[key]!r}"
        for key, plain in (("hidden_act", "relu"), ("downsample_in_first_stage", False), ("num_channels", 3))
        if config.get(key, plain) != plain
    ]
    if unsupported:
        raise CheckpointError(f"{where}: its config.json asks for {', '.join(unsupported)}, which is not supported.")
    labels = config.get("id2label") or {}
    try:
        names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    except ValueError:
        names = ()
    preprocessing, unsettled = preprocessor_config.read(preprocessor) if preprocessor else (None, ())
    return Description(
        preprocessing=preprocessing,
        # Without names, transformers writes "LABEL_0", ….
        class_names=() if all(n == f"LABEL_{i}" for i, n in enumerate(names)) else names,
        settings={"v1_stride": True} if config.get("downsample_in_bottleneck") else {},
        terms=_terms(config),
        unsettled=tuple(unsettled),
    )
