"""Random numbers that depend on their key alone.

Splits and orders must be the same on every machine and with every version of NumPy. NumPy guarantees this for
`random_raw` of Philox, but not for `permutation` or `choice`. So this module uses `random_raw` only.
"""

import hashlib
import threading

import numpy as np

_64_BITS = 0xFFFFFFFFFFFFFFFF
_of_thread = threading.local()


def raw(n: int, seed: int, *key: int | str) -> np.ndarray:
    """Return uint64 [n] random numbers for a non-negative seed and any further key."""
    return _philox(seed, *key).random_raw(n)


def uniforms(n: int, seed: int, *key: int | str) -> np.ndarray:
    """Return float64 [n] random numbers in [0, 1)."""
    return (raw(n, seed, *key) >> np.uint64(11)) * 2.0**-53


def permutation(n: int, seed: int, *key: int | str) -> np.ndarray:
    """Return a random order of 0 … n−1, int64 [n]."""
    return np.argsort(raw(n, seed, *key), kind="stable")


def example_uniforms(n: int, view_seed: int, draw_id: int, view: int) -> np.ndarray:
    """Return float64 [n] random numbers in [0, 1) for one view of one example; fast, because it runs for each image."""
    # Making a generator takes ten times as long as setting its state, because NumPy first seeds it from the system.
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
