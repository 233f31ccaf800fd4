"""The networks in one file, such as raw and averaged weights: each has a prefix before the names of its tensors."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.pretrained.formats.lazy_tensor import Tensor

HOLDERS = ("state_dict", "model", "module", "model_state_dict", "net", "network")
"""Where training scripts put the state dict, the usual one first."""

RAW = "raw"
"""The value of `config.weights_entry` that prefers weights that are not averaged, as old versions did."""

_AVERAGED = re.compile(r"(?:^|[_-])(?:ema|swa|averaged?|avg|polyak|shadow|teacher)(?:$|[_\d-])", re.IGNORECASE)
_NEXT_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # In modelEMA, emaModel and EMAModel.
_OPTIMIZER = re.compile(r"(?:opt|optim\w*|lr_sched\w*|scheduler|scaler|amp)\.", re.IGNORECASE)
_TRANSFORMERS = "encoder.stages.0.layers.0.layer.0.convolution.weight"
# The name of a tensor near the bottom of a network in each library. The last two belong to a Sequential, whose children
# have numbers: a ResNet (fastai), and the convolutions of a VGG.
_ANCHORS = ("layer1.0.conv1.weight", "features.0.weight", _TRANSFORMERS, "4.0.conv1.weight", "0.weight")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network in a file.

    Attributes:
      prefix: of the names of its tensors in the file, such as "state_dict.module."; "" if they have none.
      tensors: by their names without the prefix.
      averaged: the weights are a running average of the trained ones.
    """

    prefix: str
    tensors: Mapping[str, Tensor]
    averaged: bool

    @property
    def name(self) -> str:
        """Its name in `config.weights_entry`; "." is the top level of the file."""
        return self.prefix.rstrip(".") or "."


def find_entries(tensors: Mapping[str, Tensor]) -> list[Entry]:
    """Return the networks in a file, in its order; none if no tensor has the name of a first layer."""
    prefixes = list(dict.fromkeys(prefix for name in tensors if (prefix := _prefix(name, tensors)) is not None))
    found = []
    for prefix in prefixes:
        inner = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        below = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix) and not (inner and name.startswith(inner)) and tensor.shape
        }
        found.append(Entry(prefix, below, _is_counted(prefix, tensors) or any(map(_says_averaged, prefix.split(".")))))
    return found


def _says_averaged(name: str) -> bool:
    return _AVERAGED.search(_NEXT_WORD.sub("_", name)) is not None


def _is_counted(prefix: str, tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether torch's AveragedModel holds a prefix: it keeps a counter beside its module."""
    parts = prefix.split(".")
    above = (i for i, part in enumerate(parts) if part == "module")
    return any(".".join([*parts[:i], "n_averaged"]) in tensors for i in above) or f"{prefix}n_averaged" in tensors


def _prefix(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Return the prefix of a name that belongs to a network's first layers; None for other names."""
    for anchor in _ANCHORS:
        if name != anchor and not name.endswith(f".{anchor}"):
            continue
        prefix = name.removesuffix(anchor)
        if anchor == _TRANSFORMERS:
            return prefix.removesuffix("resnet.")
        if anchor == "4.0.conv1.weight":
            return prefix if f"{prefix}0.weight" in tensors else None
        if anchor == "0.weight":
            next_one = tensors.get(f"{prefix}2.weight") or tensors.get(f"{prefix}3.weight")
            convolutions = tensors[name].shape[1:] == (3, 3, 3) and next_one is not None and len(next_one.shape) == 4
            return prefix if convolutions and f"{prefix}0.bias" in tensors else None
        return prefix
    return None


def choose_entry(
    tensors: Mapping[str, Tensor], wanted: str | None, fits: Callable[[Mapping[str, Tensor]], bool], where: str
) -> tuple[Entry, tuple[str, ...]]:
    """Choose one network of a file: the averaged weights, if there are averaged and raw ones.

    Args:
      tensors: all of the file, nested names joined by dots.
      wanted: `config.weights_entry`: a name or the first parts of one; `RAW`; None leaves the choice to this function.
      fits: tells whether tensors fit the wanted network.
      where: the file, for messages.

    Returns:
      The entry, and sentences about the choice that the user must read.

    Raises:
      CheckpointError: there is no such entry, or there are several without a reason to prefer one.
    """
    everything, named = find_entries(tensors), wanted
    if wanted == RAW and not any(name.startswith(f"{RAW}.") for name in tensors):
        named = None
    if named == ".":
        found = [entry for entry in everything if not entry.prefix]
    else:
        found = [entry for entry in everything if _is_below(entry.prefix, named)]
    if not found:
        below = {name: tensor for name, tensor in tensors.items() if _is_below(name, named)}
        if not below and named is not None:
            raise CheckpointError(
                f"config.weights_entry={wanted!r}: {where} has no such entry. {_offer(everything, tensors)}"
            )
        return _held(below), ()
    fitting = [entry for entry in found if fits(entry.tensors)] if len(found) > 1 else found
    raw = [entry for entry in fitting if not entry.averaged]
    averaged = [entry for entry in fitting if entry.averaged]
    chosen = (raw or averaged) if wanted == RAW else (averaged or raw)
    for narrow in (_distinct, _preferred):
        chosen = narrow(chosen) if len(chosen) > 1 else chosen
    if len(chosen) > 1:
        raise CheckpointError(f"{where} holds several networks that fit. {_offer(chosen, tensors)}")
    entry = chosen[0] if chosen else found[0]
    return entry, tuple(_notes(entry, everything, fitting, tensors, wanted, where))


def _is_below(name: str, wanted: str | None) -> bool:
    """Tell whether a tensor's name or an entry's prefix belongs to the wanted entry."""
    return wanted is None or name.startswith(f"{wanted.strip('.')}.")


def _held(tensors: Mapping[str, Tensor]) -> Entry:
    """Return the tensors of a file without a known network, below the usual holder of a state dict if there is one."""
    prefix = ""
    while holder := next((h for h in HOLDERS if any(name.startswith(f"{prefix}{h}.") for name in tensors)), None):
        prefix += f"{holder}."
    return Entry(
        prefix,
        {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix) and tensor.shape
        },
        False,
    )


def _distinct(entries: list[Entry]) -> list[Entry]:
    """Drop entries with the values of an earlier one: wrappers of attacks and averages keep some twice."""
    kept: list[Entry] = []
    for entry in entries:
        if not any(_equal(entry, other) for other in kept):
            kept.append(entry)
    return kept


def _equal(a: Entry, b: Entry) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        tensor.shape == b.tensors[name].shape and np.array_equal(tensor.read(), b.tensors[name].read())
        for name, tensor in a.tensors.items()
    )


def _preferred(entries: list[Entry]) -> list[Entry]:
    """Narrow entries down by convention: MoCo evaluates encoder_q, and training scripts have a usual holder."""
    queries = [entry for entry in entries if "encoder_q" in entry.prefix.split(".")]
    if queries:
        return queries
    tops = [entry.prefix.partition(".")[0] for entry in entries]
    first = next((holder for holder in HOLDERS if holder in tops), None)
    return [entry for entry, top in zip(entries, tops, strict=True) if first in (None, top)]


def _offer(entries: list[Entry], tensors: Mapping[str, Tensor]) -> str:
    names = {entry.name for entry in entries} or {name.partition(".")[0] for name in tensors}
    return f"Set config.weights_entry to one of: {', '.join(sorted(names)[:10])}."


def _notes(
    entry: Entry,
    everything: list[Entry],
    fitting: list[Entry],
    tensors: Mapping[str, Tensor],
    wanted: str | None,
    where: str,
) -> Iterator[str]:
    """Yield the sentences about the choice of an entry that the user must read."""
    others = [other.name for other in fitting if other is not entry]
    if wanted is None and entry.averaged and any(not other.averaged for other in fitting):
        yield (
            f"{where}: the averaged weights ({entry.name}) are used, since published accuracies are those of the "
            f"average. config.weights_entry chooses others: {', '.join(others)}."
        )
    elif wanted is None and others:
        yield f"{where}: the weights {entry.name} are used. config.weights_entry chooses others: {', '.join(others)}."
    if wanted is None and not entry.averaged:
        tops = dict.fromkeys(name.partition(".")[0] for name in tensors)
        unused = [
            top
            for top in tops
            if _says_averaged(top) and not any(other.name.partition(".")[0] == top for other in fitting)
        ]
        if unused:
            yield f"{where}: the averaged weights in {', '.join(unused)} fit no network here and are not used."
    inner = entry.prefix.rstrip(".")
    parent = inner[: inner.rfind(".") + 1]
    beside = [
        name
        for name, tensor in tensors.items()
        if name.startswith(parent)
        and tensor.shape
        and not any(name.startswith(other.prefix) for other in everything)
        and not _OPTIMIZER.match(name)
        and not name.endswith("num_batches_tracked")
    ]
    if entry.prefix and beside:
        yield (
            f"{where}: the network is what is below {inner}; "
            f"{len(beside)} tensor{'s' * (len(beside) != 1)} beside it {'are' if len(beside) > 1 else 'is'} left out: "
            f"{', '.join(beside[:3])}{', …' * (len(beside) > 3)}."
        )
    if any(len(tensors[name].shape) == 4 and "classifier." in name for name in beside):
        yield (
            f"{where}: this is a network for segmentation. Such networks often dilate the convolutions of their last "
            "stages, which is not done here."
        )
