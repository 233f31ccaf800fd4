"""Files on the web that a list names: copies in the user's cache folder, each whole or not at all."""

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
_SECONDS = (10, 60)  # To connect, and between two pieces.
_HOPELESS = 20  # Failures in a row, from the start, after which the rest is not tried.
_PIECE = 2**18


def is_url(path: str | os.PathLike) -> bool:
    """Tell whether a path is an address on the web."""
    return os.fspath(path)[:8].lower().startswith(("https://", "http://"))


def local_path(path: str) -> str:
    """Return the path that a `file://` address stands for; other paths as they are.

    Raises:
        DataError: the address names another machine, or a scheme that cannot be read.
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
    """Return where the copy of a file on the web is, once it is fetched."""
    name = hashlib.sha256(url.encode()).hexdigest()
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return cache_folder() / "downloads" / name[:2] / (name + (suffix if suffix in SUFFIXES else ""))


def fetch(urls: Iterable[str], *, give_up_after: int | None = None) -> dict[str, str]:
    """Fetch what is not in the cache yet, in parallel and with progress.

    Args:
        urls: addresses of files.
        give_up_after: so many failures; None to go on, unless nothing at all can be fetched.

    Returns:
        {url: why it could not be fetched}.

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
            f"{cache_folder()} cannot be written to ({error}). XDG_CACHE_HOME names another place."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return failed if done == len(missing) else {**failed, **dict.fromkeys(missing[done:], "it was not tried")}


def _session():
    import requests  # Takes a tenth of a second, and only few lists need it.
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = Retry(total=3, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_THREADS, max_retries=again))
    session.headers["User-Agent"] = "flax_augtl"  # Some archives refuse programs that do not say who they are.
    return session


def _fetch(session, url: str) -> str | None:
    """Fetch one file; return why it could not be, or None. OSError if it cannot be written."""
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
