"""Read lists in the format of CUB-200-2011, which are joined by the numbers of the images."""

from etils import epath

from flax_augtl.data.errors import DataError

_LABELS, _SPLITS, CLASSES = "image_class_labels.txt", "train_test_split.txt", "classes.txt"
_FOLDER = "images"


def numbered_lists(
    images: epath.Path, root: epath.Path
) -> tuple[dict[str, list[tuple[str, str]]], tuple[str, ...]] | None:
    """Join the list of images with the files beside it.

    Each line of a file has a number and a value. `images.txt` has the path (below `images/` or the root),
    `image_class_labels.txt` the number of the class, `train_test_split.txt` 1 for training and 0 for test, and
    `classes.txt` the name of the class.

    Args:
      images: the list of images.
      root: the folder that the returned paths are relative to.

    Returns:
      ({"train" | "test": [(path, class name)]}, class names in the order of their numbers); None if one of the other
      files does not exist.

    Raises:
      DataError: a line is not a number and a value, or a number occurs twice or is missing in another file.
    """
    files = {name: images.parent / name for name in (_LABELS, _SPLITS, CLASSES)}
    if not all(file.is_file() for file in files.values()):
        return None
    paths = _table(images)
    labels, in_train, names = (_table(files[name]) for name in (_LABELS, _SPLITS, CLASSES))
    folder = f"{_FOLDER}/" if (root / _FOLDER).is_dir() else ""
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for number, path in paths.items():
        label = _of(labels, number, files[_LABELS])
        split = {"1": "train", "0": "test"}.get(_of(in_train, number, files[_SPLITS]))
        if split is None:
            raise DataError(f"{files[_SPLITS]}: image {number} is marked {in_train[number]}; it must be 1 or 0.")
        rows[split].append((folder + path, _of(names, label, files[CLASSES])))
    return rows, tuple(names[number] for number in sorted(names, key=int))


def _table(file: epath.Path) -> dict[str, str]:
    table = {}
    for number, line in enumerate(file.read_text("utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(" ")
        if not key.isdecimal() or not value.strip():
            raise DataError(f"{file}, line {number}: “{line}” is not a number and a value.")
        if key in table:
            raise DataError(f"{file}, line {number}: the number {key} occurs twice.")
        table[key] = value.strip()
    return table


def _of(table: dict[str, str], number: str, file: epath.Path) -> str:
    if number not in table:
        raise DataError(f"{file} has no line for the number {number}.")
    return table[number]
