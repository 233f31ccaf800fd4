"""Tell whether a file is an image, by its ending if that is known, else by its first bytes."""

import os
import re
from collections.abc import Sequence

from flax_augtl.data.images.decode import SUFFIXES

# Endings of other files, so that a hundred thousand annotation files need not be opened.
OTHER_SUFFIXES = frozenset(
    ".txt .csv .tsv .json .jsonl .ndjson .xml .yaml .yml .toml .ini .cfg .log .md .rst .html .htm .css .js .pdf "
    ".doc .docx .xls .xlsx .odt .ods .ppt .pptx .rtf .tex .bib .py .pyc .ipynb .m .r .c .h .cpp .java .sh .bat .ps1 "
    ".zip .tar .gz .tgz .bz2 .xz .7z .rar .zst .npy .npz .mat .h5 .hdf5 .pkl .pickle .parquet .arrow .feather .avro "
    ".tfrecord .tfrecords .pt .pth .ckpt .bin .safetensors .onnx .pb .tflite .dat .db .sqlite .sql .lmdb .mdb .mp4 "
    ".avi .mov .mkv .webm .m4v .mpg .mpeg .wmv .3gp .mp3 .wav .flac .ogg .m4a .aac .svg .eps .ps .ai .psd .xcf "
    ".heic .heif .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .raw .dcm .nii .jp2 .j2k .jxl .exr .hdr .ico .xmp .aae "
    ".thm .lnk .url .exe .dll .so .md5 .sha1 .sha256 .lock".split()
)
LENGTH = 64  # Bytes that `looks_like_image` needs.
_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|.{4}ftypavi[fs]"
    # With the size of the header, because texts may begin with BM, too.
    rb"|BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|P[1-6]\s(?:\s|#[^\n]*\n)*\d",
    re.DOTALL,
)


def by_name(name: str) -> bool | None:
    """Tell whether a file is an image by its ending; None if the ending is unknown."""
    suffix = os.path.splitext(name)[1].lower()
    return True if suffix in SUFFIXES else False if suffix in OTHER_SUFFIXES else None


def looks_like_image(beginning: bytes) -> bool:
    """Tell whether bytes are the beginning of an image in a supported format."""
    return bool(_BEGINNINGS.match(beginning))


def is_image_file(path: str) -> bool:
    """Tell whether a local file is an image by its first bytes; False if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return looks_like_image(file.read(LENGTH))
    except OSError:
        return False


def are_images(urls: Sequence[str]) -> list[bool]:
    """Tell for each file of a bucket whether it is an image, by its first bytes; nothing else is fetched."""
    if not urls:
        return []
    import fsspec  # Installed wherever buckets can be listed.

    filesystem, _ = fsspec.core.url_to_fs(urls[0])
    found = filesystem.cat_ranges(list(urls), [0] * len(urls), [LENGTH] * len(urls), on_error="return")
    return [isinstance(beginning, bytes) and looks_like_image(beginning) for beginning in found]
