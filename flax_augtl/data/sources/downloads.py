"""Download files on the web that a list names into the user's cache folder."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from etils import epath
from tqdm import tqdm

from flax_augtl.data.errors import DataError
from flax_augtl.data.images.decode import SUFFIXES
from flax_augtl.runtime.paths import cache_folder, is_remote

_THREADS = 8
_SECONDS = (10, 60)  # Timeouts to connect, and between two pieces.
_HOPELESS = 20  # If the first downloads all fail, stop after so many.
_PIECE = 2**18


def is_url(path: str | os.PathLike) -> bool:
    """Tell whether a path is a web address."""
    return os.fspath(path)[:8].lower().startswith(("https://", "http://"))


def local_path(path: str) -> str:
    """Return the path of a `file://` address, and other paths unchanged.

    Raises:
      DataError: the address names another machine, or its scheme is not supported.
    """
    if not is_remote(path) or is_url(path):
        return path
    parts = urlsplit(path)
    if parts.scheme.lower() == "file":
        if parts.netloc not in ("", "localhost"):
            raise DataError(f"{path} names the machine {parts.netloc}. A file of this machine is file:///FOLDER/FILE.")
        plain = path.split("://", 1)[1].removeprefix("localhost")
        return plain if os.path.exists(plain) else unquote(plain)
    try:
        epath.Path(path)
    except KeyError:
        raise DataError(
            f"{path} cannot be read: {parts.scheme}:// is unknown. Paths may begin with https://, http://, file://, "
            "gs:// or s3://."
        ) from None
    return path


def copy_of(url: str) -> Path:
    """Return the path of the downloaded copy of a file."""
    name = hashlib.sha256(url.encode()).hexdigest()
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return cache_folder() / "downloads" / name[:2] / (name + (suffix if suffix in SUFFIXES else ""))


def fetch(urls: Iterable[str], *, give_up_after: int | None = None) -> dict[str, str]:
    """Download the files that are not in the cache, in parallel, and show the progress.

    Args:
      urls: addresses of the files.
      give_up_after: number of failures after which to stop; None to continue, unless all of the first ones fail.

    Returns:
      {url: why it could not be downloaded}.

    Raises:
      DataError: the cache folder cannot be written to.
    """
    missing = [url for url in dict.fromkeys(urls) if not copy_of(url).is_file()]
    if not missing:
        return {}
    failed: dict[str, str] = {}
    session, done = _session(), 0
    pool = ThreadPoolExecutor(_THREADS)
    try:
        found = pool.map(lambda url: _fetch(session, url), missing)
        progress = tqdm(found, "Fetching images", len(missing), leave=False, delay=2, mininterval=1, unit="")
        for url, reason in zip(missing, progress, strict=True):
            done += 1
            if reason:
                failed[url] = reason
            if len(failed) == give_up_after or len(failed) == done == _HOPELESS:
                break
    except OSError as error:
        raise DataError(
            f"{cache_folder()} cannot be written to ({error}). Set XDG_CACHE_HOME to another folder."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return failed if done == len(missing) else {**failed, **dict.fromkeys(missing[done:], "it was not tried")}


def _session():
    import requests  # Slow to import, and only few lists need it.
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = Retry(total=3, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_THREADS, max_retries=again))
    session.headers["User-Agent"] = "flax_augtl"  # Some servers refuse clients without a name.
    return session


def _fetch(session, url: str) -> str | None:
    """Download one file, whole or not at all; return why that failed, or None.

    Raises:
      OSError: the file cannot be written.
    """
    import requests

    place = copy_of(url)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".unfinished-", delete=False) as file:
        try:
            with session.get(url, stream=True, timeout=_SECONDS) as answer:
                if answer.status_code != 200:
                    return f"the server answered {answer.status_code} {answer.reason}".rstrip()
                if answer.headers.get("Content-Type", "").lower().startswith("text/html"):
                    return "the server answered with a web page"
                for piece in answer.iter_content(_PIECE):
                    file.write(piece)
            file.close()
            os.replace(file.name, place)
        except (requests.RequestException, ValueError) as error:
            return _short(error)
        finally:
            Path(file.name).unlink(missing_ok=True)
    return None


def _short(error: Exception) -> str:
    import requests

    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not accepted"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
