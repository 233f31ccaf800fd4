"""A 3×3 convolution by Winograd's minimal filtering F(2×2, 3×3): 16 products for 4 outputs, where 36 are plain.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), equations 8 and 11: with the tile
d of 4×4 inputs and the kernel g, the 2×2 outputs are Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A. The sum over the input channels turns ⊙
into one matrix product [tiles, in] × [in, out] for each of the 16 elements. In float32, its rounding errors are those
of a plain convolution. On a CPU, XLA's convolutions are as fast as its matrix products, so only fewer products save time.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

TILE = 2
# The number of inputs to transform at a time: tiles and products then stay in a core's share of the cache.
CHUNK = 1 << 19
_B = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # Bᵀ
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A = ((1, 1, 1, 0), (0, 1, -1, -1))  # Aᵀ
Grid = Sequence[Sequence[jax.Array]]


def _combined(factors: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    first, *others = [(factor, array) for factor, array in zip(factors, arrays, strict=True) if factor]
    total = first[1] if first[0] == 1 else first[0] * first[1]
    for factor, array in others:
        term = array if abs(factor) == 1 else abs(factor) * array
        total = total + term if factor > 0 else total - term
    return total


def _both_sides(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """Return M X Mᵀ, where X is a matrix of arrays."""
    rows = [[_combined(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_combined(row, each) for row in matrix] for each in rows]


def _transposed(matrix: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*matrix, strict=True))


def _tile_counts(x: jax.Array) -> tuple[int, int]:
    return -(-x.shape[1] // TILE), -(-x.shape[2] // TILE)


def _tiles(x: jax.Array) -> Grid:
    """Return Bᵀ d B for all tiles of [N, H, W, C]: 4×4 arrays [N ⌈H/2⌉ ⌈W/2⌉, C]."""
    high, wide = _tile_counts(x)
    x = jnp.pad(x, ((0, 0), (1, high * TILE + 1 - x.shape[1]), (1, wide * TILE + 1 - x.shape[2]), (0, 0)))
    rows = [_combined(row, [x[:, i : i + (high - 1) * TILE + 1 : TILE] for i in range(4)]) for row in _B]
    return [
        [
            _combined(row, [each[:, :, j : j + (wide - 1) * TILE + 1 : TILE] for j in range(4)]).reshape(
                -1, x.shape[-1]
            )
            for row in _B
        ]
        for each in rows
    ]


def _transformed(kernel: jax.Array, backwards: bool) -> Grid:
    """Return G g Gᵀ of [3, 3, in, out]: 4×4 arrays [in, out]. The transpose of a convolution turns the kernel round."""
    order = (2, 1, 0) if backwards else (0, 1, 2)
    return _both_sides(_G, [[kernel[i, j] for j in order] for i in order])


def _filtered(x: jax.Array, weights: Grid, backwards: bool) -> jax.Array:
    high, wide = _tile_counts(x)
    contracted = (((1,), (1 if backwards else 0,)), ((), ()))
    products = [
        [jax.lax.dot_general(*pair, contracted) for pair in zip(*rows, strict=True)]
        for rows in zip(_tiles(x), weights, strict=True)
    ]
    (a, b), (c, d) = [[each.reshape(len(x), high, wide, -1) for each in row] for row in _both_sides(_A, products)]
    y = jnp.stack([jnp.stack([a, b], 3), jnp.stack([c, d], 3)], 2)
    return y.reshape(len(x), high * TILE, wide * TILE, -1)[:, : x.shape[1], : x.shape[2]]


def _gradient_of_kernel(x: jax.Array, gradient: jax.Array) -> jax.Array:
    high, wide = _tile_counts(gradient)
    *_, height, width, channels = gradient.shape
    gradient = jnp.pad(gradient, ((0, 0), (0, high * TILE - height), (0, wide * TILE - width), (0, 0)))
    outputs = [[gradient[:, i::TILE, j::TILE].reshape(-1, channels) for j in range(TILE)] for i in range(TILE)]
    products = [
        [jax.lax.dot_general(*pair, (((0,), (0,)), ((), ()))) for pair in zip(*rows, strict=True)]
        for rows in zip(_tiles(x), _both_sides(_transposed(_A), outputs), strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _both_sides(_transposed(_G), products)])


def _chunks(*arrays: jax.Array) -> list[jax.Array]:
    """Split the examples of arrays [N, …] alike: [chunks, N / chunks, …]."""
    n, largest = len(arrays[0]), max(each.size for each in arrays)
    count = next(count for count in range(1, n + 1) if n % count == 0 and (largest / count <= CHUNK or count == n))
    return [each.reshape(count, n // count, *each.shape[1:]) for each in arrays]


def _in_chunks(x: jax.Array, kernel: jax.Array, backwards: bool) -> jax.Array:
    # Make the kernel depend on x. Otherwise XLA may transform the kernels of all layers first, and keep 16/9 of the
    # network's size in memory.
    weights = _transformed(kernel + 0 * x[0, 0, 0, 0], backwards)
    (chunks,) = _chunks(x)
    if len(chunks) == 1:
        return _filtered(x, weights, backwards)
    y = jax.lax.map(lambda chunk: _filtered(chunk, weights, backwards), chunks)
    return y.reshape(len(x), *y.shape[2:])


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve [N, H, W, in] with [3, 3, in, out], stride 1, padded by 1: [N, H, W, out]."""
    return _in_chunks(x, kernel, False)


def winograd_gradients(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of a loss for x and kernel, given its gradient for the output, [N, H, W, out]."""
    pairs = _chunks(x, gradient)
    total = (
        _gradient_of_kernel(x, gradient)
        if len(pairs[0]) == 1
        else jax.lax.scan(
            lambda total, pair: (total + _gradient_of_kernel(*pair), None), jnp.zeros_like(kernel), tuple(pairs)
        )[0]
    )
    return _in_chunks(gradient, kernel, True), total
