"""The order of training: one endless stream of examples, a function of (number of examples, seed).

The stream is one random permutation after another. Global batch p is its items p·B … (p+1)·B − 1, whatever B is: it
drops nothing, an epoch may end within a batch, and a batch may be larger than the dataset.
"""

import functools

import numpy as np

from flax_augtl.data import keyed_random


def stream(
    start: int, stop: int, n: int, seed: int, *, stride: int = 1, views: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Which example stands at the positions start, start + stride, … < stop of the stream, and in which view.

    Args:
        start, stop, stride: positions, as in `range`.
        n: number of examples.
        seed: of the order.
        views: number of different views of an example; 0 for a new one in every epoch.

    Returns:
        (examples int64 [m] in 0 … n−1, views int32 [m]).
    """
    position = np.arange(start, stop, stride, dtype=np.int64)
    epoch, place = np.divmod(position, n)
    if not len(position):
        example = position
    elif epoch[0] == epoch[-1]:
        example = epoch_order(n, seed, int(epoch[0]))[place]
    else:
        example = np.empty_like(position)
        for e in np.unique(epoch):
            here = epoch == e
            example[here] = epoch_order(n, seed, int(e))[place[here]]
    return example, (epoch % views if views else epoch).astype(np.int32)


@functools.lru_cache(maxsize=4)  # Neighbouring epochs overlap in prefetching; a permutation of a million takes 0.1 s.
def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch, int64 [n], read-only."""
    order = keyed_random.permutation(n, seed, "order", epoch)
    order.flags.writeable = False
    return order
