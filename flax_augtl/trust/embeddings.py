"""Embeddings: what a layer group computes for images, averaged over places or not, and files of them."""

import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from etils import epath

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.errors import UserError
from flax_augtl.models.augmented import HEAD, AugmentedNetwork, features_end
from flax_augtl.runtime.paths import absolute, is_folder, is_remote
from flax_augtl.runtime.text import readable
from flax_augtl.trust.feature_maps import with_map
from flax_augtl.workdir import files

NAME = "embeddings.npz"


def checked_layer(network: AugmentedNetwork, layer: str | None) -> str:
    """Return a layer group of the source network; None is the one below the classification layer.

    Raises:
      UserError: there is no such layer group.
    """
    groups = network.source.groups
    if layer is None:
        return groups[features_end(network) - 1]
    if layer not in groups:
        other = f" {HEAD} is the new layers; its outputs are predictions." if layer == HEAD else ""
        raise UserError(f"--layer={layer} is not one of the layer groups of this network: {', '.join(groups)}.{other}")
    return layer


def compiled_embed_step(
    network: AugmentedNetwork, preprocessing: Preprocessing, layer: str, pooled: bool
) -> Callable[..., Any]:
    """Return a compiled function (variables, uint8 [N, S, S, 3]) -> float32 [N, C], or [N, h, w, C] if not pooled."""
    return _compiled(cast(Any, network), preprocessing, layer, pooled)  # Type checkers take modules for unhashable.


@functools.lru_cache(maxsize=16)
def _compiled(network: Any, preprocessing: Preprocessing, layer: str, pooled: bool) -> Callable[..., Any]:
    def step(variables: Any, images: jax.Array) -> jax.Array:
        stop = network.source.groups.index(layer) + 1
        output, found = with_map(network, variables, preprocessing.normalise(images), layer, stop=stop)
        output = output["top"] if isinstance(output, Mapping) else output
        # After the last stage, the output has lost its places, but the map has them.
        output = found if output.ndim == 2 and found is not None else output
        output = output.mean((1, 2)) if pooled and output.ndim == 4 else output
        return output.astype(np.float32)

    return jax.jit(step)


def output_path(output: str | None, workdir: epath.Path) -> epath.Path:
    """Return the path of --output, or the usual one in the run directory.

    Raises:
      UserError: its ending is neither .npz nor .parquet, its folder does not exist, or pyarrow is not installed.
    """
    if output is None:
        return workdir / NAME
    if not output.lower().endswith((".npz", ".parquet")):
        raise UserError(f"--output={output} must end in .npz or .parquet: embeddings are written as arrays.")
    path = absolute(output)
    if is_folder(path):
        raise UserError(f"--output={output} is a folder. Give the name of a file in it.")
    if not is_remote(path) and not is_folder(path.parent):
        raise UserError(f"--output={output}: the folder {path.parent} does not exist. Create it.")
    if output.lower().endswith(".parquet"):
        _pyarrow()
    return path


def write(path: epath.Path, paths: Sequence[str], embeddings: np.ndarray, layer: str) -> None:
    """Write embeddings with the paths of their images, as .npz or .parquet.

    An .npz file has `embeddings`, `paths` and `layer`, and loads without pickle. A Parquet file has the columns `path`
    and `embedding`, a list of fixed length; the shape of one embedding and the layer are in its metadata.

    Args:
      path: the file.
      paths: of the images.
      embeddings: float32 [N, ...].
      layer: the layer group that they come from.
    """
    names, content = [readable(os.fspath(name)) for name in paths], io.BytesIO()
    if path.name.lower().endswith(".parquet"):
        arrow, parquet = _pyarrow()
        flat = np.ascontiguousarray(embeddings.reshape(len(embeddings), -1))
        column = arrow.FixedSizeListArray.from_arrays(arrow.array(flat.ravel()), flat.shape[1])
        table = arrow.table({"path": arrow.array(names, arrow.string()), "embedding": column})
        shape = ",".join(map(str, embeddings.shape[1:]))
        parquet.write_table(table.replace_schema_metadata({"layer": layer, "shape": shape}), content)
    else:
        np.savez(content, embeddings=embeddings, paths=np.array(names, np.str_), layer=np.array(layer))
    files.write_bytes(path, content.getvalue())


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Parquet files need pyarrow: pip install 'flax_augtl[parquet]', or write an .npz file."
        ) from error
    return pyarrow, pyarrow.parquet
