"""Words of headings and cells in lists: which name a path, a label, a split, or a missing value."""

import re
from collections.abc import Iterable

from flax_augtl.data.images.decode import SUFFIXES
from flax_augtl.data.sources.downloads import is_url

# Compared without case, blanks, "_", "-" and a plural's s: "File Names" is "filename".
_PATHS = frozenset(
    "path filepath filename file image img imagepath imgpath imagename imgname imagefile imgfile imagefilename "
    "imagefilepath photo fname fpath picture picturename picturepath url imageurl".split()
)
_IDS = frozenset("id imageid imgid photoid pictureid fileid name key uuid uid".split())
_LABELS = frozenset(
    "label labelname labelid labelidx class classname classid classidx classlabel classnumber target targetname targetid "
    "category categoryname categoryid categorylabel breed species diagnosis dx y".split()
)
_SPLITS = frozenset("split datasplit splitname traintestsplit partition evaluationstatus".split())
_MAYBE_SPLITS = frozenset("dataset set subset phase usage mode type".split())
SPLIT_VALUES = {
    **dict.fromkeys("train training trn trainset trainingset".split(), "train"),
    **dict.fromkeys("val valid validation validate dev eval evaluation valset validationset".split(), "val"),
    **dict.fromkeys("test testing tst testset".split(), "test"),
}
# Columns of yes and no: what each of the two means.
_YES_NO: dict[str, tuple[str, str]] = {
    **dict.fromkeys("train istrain istraining istrainingimg istrainingimage intrain".split(), ("train", "test")),
    **dict.fromkeys("isval isvalid isvalidation".split(), ("val", "train")),
    **dict.fromkeys("test istest istesting".split(), ("test", "train")),
}
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_MISSING = frozenset(["", "nan", "na", "n/a", "#n/a", "<na>", "null", "none"])


def compact(word: str) -> str:
    """Return a word of a heading as it is compared."""
    return re.sub(r"[\s_\-]+", "", word.strip().strip("#").strip().lower())


def _among(word: str, words: frozenset[str]) -> bool:
    word = compact(word)
    return word in words or (word.endswith("s") and word[:-1] in words) or word == "classes" and "class" in words


def is_path_word(word: str) -> bool:
    """Tell whether a heading names the column of paths, such as `file_name`."""
    return _among(word, _PATHS)


def is_id_word(word: str) -> bool:
    """Tell whether a heading names the numbers or names of images, which are paths where there is no better column."""
    return _among(word, _IDS)


def is_label_word(word: str) -> bool:
    """Tell whether a heading names the column of labels."""
    return _among(word, _LABELS)


def split_values(word: str, values: Iterable[str], *, asked: bool = False) -> dict[str, str] | None:
    """Return {a value of the column, in lower case: its split}, or None if the column does not say the split.

    Args:
        word: the column's heading, "" if it has none.
        values: its cells.
        asked: the user says that it is the column of splits.
    """
    found = {value.strip().lower() for value in values}
    if found <= {*_YES, *_NO} and (meaning := _YES_NO.get(compact(word))):
        return {**dict.fromkeys(_YES, meaning[0]), **dict.fromkeys(_NO, meaning[1])}
    known = {value: SPLIT_VALUES[compact(value)] for value in found if compact(value) in SPLIT_VALUES}
    # Whatever its name, a column of nothing but "train" and "test" is meant.
    evident = len(known) == len(found) and ("train" in known.values() and len(set(known.values())) > 1 or not word)
    sure = asked or evident or _among(word, _SPLITS) or (_among(word, _MAYBE_SPLITS) and known)
    return known if sure else None


def is_missing(cell: str) -> bool:
    """Tell whether a cell stands for no value, as programs write it: empty, nan, NA, None, null."""
    return cell.strip().lower() in _MISSING


def has_ending(path: str) -> bool:
    """Tell whether a path ends as the names of image files do; fast, for lists may be long."""
    return "." + path.rpartition(".")[2].lower() in SUFFIXES


def looks_like_image(cell: str) -> bool:
    """Tell whether a cell is the name of an image file, or an address on the web."""
    return has_ending(cell) or is_url(cell)
