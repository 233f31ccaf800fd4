"""Words in headings and cells of lists that mean a path, a label, a split, or a missing value."""

import re
from collections.abc import Iterable

from flax_augtl.data.images.decode import SUFFIXES
from flax_augtl.data.sources.downloads import is_url

# Compared without case, spaces, "_", "-" and plural s: "File Names" is "filename".
_PATHS = frozenset(
    "path filepath filename file image img imagepath imgpath imagename imgname imagefile imgfile imagefilename "
    "imagefilepath photo fname fpath picture picturename picturepath url imageurl".split()
)
_IDS = frozenset("id imageid imgid photoid pictureid fileid name key uuid uid".split())
_LABELS = frozenset(
    "label labelname labelid labelidx class classname classid classidx classlabel classnumber target targetname "
    "targetid category categoryname categoryid categorylabel breed species diagnosis dx y".split()
)
_SPLITS = frozenset("split datasplit splitname traintestsplit partition evaluationstatus".split())
_MAYBE_SPLITS = frozenset("dataset set subset phase usage mode type".split())
SPLIT_VALUES = {
    **dict.fromkeys("train training trn trainset trainingset".split(), "train"),
    **dict.fromkeys("val valid validation validate dev eval evaluation valset validationset".split(), "val"),
    **dict.fromkeys("test testing tst testset".split(), "test"),
}
# Columns of yes and no: (the split for yes, the split for no).
_YES_NO: dict[str, tuple[str, str]] = {
    **dict.fromkeys("train istrain istraining istrainingimg istrainingimage intrain".split(), ("train", "test")),
    **dict.fromkeys("isval isvalid isvalidation".split(), ("val", "train")),
    **dict.fromkeys("test istest istesting".split(), ("test", "train")),
}
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_MISSING = frozenset(["", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"])


def compact(word: str) -> str:
    """Return a word in the form for comparison."""
    return re.sub(r"[\s_\-]+", "", word.strip().strip("#").strip().lower())


def _among(word: str, words: frozenset[str]) -> bool:
    word = compact(word)
    return word in words or (word.endswith("s") and word[:-1] in words) or word == "classes" and "class" in words


def is_path_word(word: str) -> bool:
    """Tell whether a heading names the column of paths, such as `file_name`."""
    return _among(word, _PATHS)


def is_id_word(word: str) -> bool:
    """Tell whether a heading names a column of ids, which are paths if there is no better column."""
    return _among(word, _IDS)


def is_label_word(word: str) -> bool:
    """Tell whether a heading names the column of labels."""
    return _among(word, _LABELS)


def split_values(word: str, values: Iterable[str], *, asked: bool = False) -> dict[str, str] | None:
    """Return {value of the column, in lower case: its split}; None if it is not a column of splits.

    Args:
      word: heading of the column; "" if it has none.
      values: cells of the column.
      asked: whether the user says that it is the column of splits.
    """
    found = {value.strip().lower() for value in values}
    if found <= {*_YES, *_NO} and (meaning := _YES_NO.get(compact(word))):
        return {**dict.fromkeys(_YES, meaning[0]), **dict.fromkeys(_NO, meaning[1])}
    known = {value: SPLIT_VALUES[compact(value)] for value in found if compact(value) in SPLIT_VALUES}
    # A column with only "train" and "test" is clear, whatever its heading is.
    evident = len(known) == len(found) and ("train" in known.values() and len(set(known.values())) > 1 or not word)
    sure = asked or evident or _among(word, _SPLITS) or (_among(word, _MAYBE_SPLITS) and known)
    return known if sure else None


def is_missing(cell: str) -> bool:
    """Tell whether a cell is a missing value: empty, nan, NA, None, null."""
    return cell.strip().lower() in _MISSING


def has_ending(path: str) -> bool:
    """Tell whether a path ends like an image file; fast, because lists may be long."""
    return "." + path.rpartition(".")[2].lower() in SUFFIXES


def looks_like_image(cell: str) -> bool:
    """Tell whether a cell ends like an image file, or is a web address."""
    return has_ending(cell) or is_url(cell)
