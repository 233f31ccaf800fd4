"""Order the training examples: one endless stream that depends on (number of examples, seed) only.

The stream is one random permutation after another. Global batch p has its items p·B … (p+1)·B − 1 for any B. So no
example is dropped, an epoch may end inside a batch, and a batch may be larger than the dataset.
"""

import functools

import numpy as np

from flax_augtl.data import keyed_random


def stream(
    start: int, stop: int, n: int, seed: int, *, stride: int = 1, views: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples and views at the positions start, start + stride, … < stop of the stream.

    Args:
      start: first position.
      stop: end of the positions.
      n: number of examples.
      seed: seed of the order.
      stride: step between positions.
      views: number of different views of an example; 0 for a new view in every epoch.

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


@functools.lru_cache(maxsize=4)  # Prefetching overlaps two epochs; a permutation of a million takes 0.1 s.
def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of one epoch, int64 [n], read-only."""
    order = keyed_random.permutation(n, seed, "order", epoch)
    order.flags.writeable = False
    return order
