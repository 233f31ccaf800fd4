"""Fetches checkpoints at https:// and http:// once into the user's cache folder; file:// is a path."""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from flax_augtl.pretrained.errors import CheckpointError
from flax_augtl.runtime.paths import as_on_disk

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_BUCKETS = ("gs", "s3", "az")
_HUB_PAGE = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)(?:/tree/([\w./-]+?))?/?")
_SECONDS = 60.0  # The longest wait for the next byte.


def local_or_named(weights: str | os.PathLike) -> str | os.PathLike:
    """Return the path of a file:// address and the hub id of a page of the hub; return others unchanged.

    A path gets the Unicode form that it has on the disk.

    Raises:
      CheckpointError: the scheme of the address is not supported.
    """
    text = os.fspath(weights)
    match = _SCHEME.match(text) if isinstance(text, str) else None
    if match is None:
        return as_on_disk(weights) if isinstance(text, str) else weights
    scheme = match[1].lower()
    if scheme == "file":
        parts = urllib.parse.urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise CheckpointError(
                f"{weights} is on another machine ({parts.netloc}); file:// reads this one. For a path "
                f"of this machine, write file:///{parts.netloc}{parts.path}."
            )
        return as_on_disk(urllib.request.url2pathname(parts.path))
    if page := _HUB_PAGE.fullmatch(text):
        return f"{page[1]}@{page[2]}" if page[2] else page[1]
    if scheme not in ("http", "https", *_BUCKETS):
        raise CheckpointError(
            f"{weights}: addresses that start with {scheme}:// are not read. Those that are read start "
            "with https://, http://, file://, gs://, s3:// or az://."
        )
    return weights


def is_address(weights: str | os.PathLike) -> bool:
    """Tell whether weights come from a web server."""
    return str(weights).lower().startswith(("http://", "https://"))


def without_secrets(url: str) -> str:
    """Return an address without its possible secrets: user, password and query."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def cached(url: str) -> Path:
    """Return the path of an address's file in the cache folder."""
    from flax_augtl.runtime.paths import cache_folder

    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rstrip("/").rpartition("/")[2])
    name = re.sub(r"[^\w.-]", "_", name).lstrip(".")[-100:] or "weights"
    return cache_folder() / "weights" / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def fetch(url: str) -> Path:
    """Return the file at an address; fetch it, whole or not at all, if it is not in the cache folder.

    Raises:
      CheckpointError: it cannot be fetched or written.
    """
    file = cached(url)
    if file.exists():
        return file
    shown = without_secrets(url)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The same folder makes the last step a rename.
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", suffix=".part", delete=False) as part:
            try:
                _download(_direct(url), shown, part)
                part.close()
                os.replace(part.name, file)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part.name)
    except urllib.error.HTTPError as error:
        error.close()
        raise CheckpointError(
            f"{shown} could not be fetched: the server answers {error.code} ({error.reason})."
        ) from error
    except urllib.error.URLError as error:
        raise CheckpointError(
            f"{shown} could not be fetched: {error.reason}. Fetch it by other means, and give its path."
        ) from error
    except (http.client.HTTPException, ValueError, TimeoutError, ConnectionError) as error:
        raise CheckpointError(f"{shown} could not be fetched: {error or type(error).__name__}. Try again.") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written: {error.strerror or error}.") from error
    return file


def _direct(url: str) -> str:
    """Return the address of the file itself for the address of a page that shows it."""
    if re.match(r"https?://(huggingface\.co|hf\.co)/", url):
        return url.replace("/blob/", "/resolve/", 1)
    return url.replace("/blob/", "/raw/", 1) if re.match(r"https?://github\.com/", url) else url


def _download(url: str, shown: str, part) -> None:
    """Download an address into an open file, with a progress bar."""
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": "flax_augtl"})
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdecimal() else None
        with tqdm.wrapattr(answer, "read", total=total, desc=f"Fetching {shown}", leave=False, delay=1) as source:
            shutil.copyfileobj(source, part, 2**20)
    if total is not None and part.tell() != total:
        raise ConnectionError(f"the connection ended after {part.tell():,} of {total:,} bytes")
