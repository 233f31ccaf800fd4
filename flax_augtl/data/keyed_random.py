"""Random numbers that are a function of their key alone.

Only `random_raw` of numpy's Philox is used. numpy promises that stream for good, and does not promise those of
`permutation` or `choice`, on which a split or an order that must be the same everywhere cannot rest.
"""

import hashlib
import threading

import numpy as np

_64_BITS = 0xFFFFFFFFFFFFFFFF
_of_thread = threading.local()


def raw(n: int, seed: int, *key: int | str) -> np.ndarray:
    """n random numbers, uint64 [n], for any non-negative seed and any further key."""
    return _philox(seed, *key).random_raw(n)


def uniforms(n: int, seed: int, *key: int | str) -> np.ndarray:
    """n random numbers in [0, 1), float64 [n]."""
    return (raw(n, seed, *key) >> np.uint64(11)) * 2.0**-53


def permutation(n: int, seed: int, *key: int | str) -> np.ndarray:
    """A random order of 0 … n−1, int64 [n]."""
    return np.argsort(raw(n, seed, *key), kind="stable")


def example_uniforms(n: int, view_seed: int, draw_id: int, view: int) -> np.ndarray:
    """The draws of one view of one example, float64 [n] in [0, 1); one call a view. Quick: this runs once an image."""
    # To make a generator costs ten times as much as to set one, since numpy first seeds it from the system.
    generator = getattr(_of_thread, "generator", None)
    if generator is None:
        generator = _of_thread.generator = np.random.Philox(key=0)
    # As an array: a list of large ints would become floats.
    key = np.array([view_seed & _64_BITS, int(draw_id) << 32 | int(view)], np.uint64)
    generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": np.zeros(4, np.uint64), "key": key},
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return (generator.random_raw(n) >> np.uint64(11)) * 2.0**-53


def _philox(seed: int, *key: int | str) -> np.random.Philox:
    digest = hashlib.blake2b(repr((int(seed), *key)).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, "<u8"))
