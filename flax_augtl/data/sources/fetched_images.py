"""Download the images of a listing that are on the web."""

import dataclasses

import numpy as np

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.downloads import fetch, is_url
from flax_augtl.data.sources.image_files import Listing

_ENOUGH = 10  # If failures are errors, stop after so many.


def fetched(listing: Listing, on_bad_image: str) -> tuple[Listing, dict[str, str]]:
    """Download the images of a listing that are on the web and not yet in the cache.

    Args:
      listing: the files.
      on_bad_image: config.data.on_bad_image.

    Returns:
      The listing, and {address: reason} of the images that were removed from it, if `on_bad_image` is "skip".

    Raises:
      DataError: an image cannot be downloaded, and `on_bad_image` is not "skip".
    """
    urls = [path for paths, _ in listing.splits.values() for path in paths if is_url(path)]
    skip = on_bad_image == "skip"
    failed = fetch(urls, give_up_after=None if skip else _ENOUGH)
    if not failed:
        return listing, {}
    tried = {url: reason for url, reason in failed.items() if reason != "it was not tried"}
    if not skip or len(failed) == len(urls):
        named = listed((f"{url} ({reason})" for url, reason in tried.items()), 3)
        raise DataError(
            f"{len(tried)} of {len(urls)} images could not be fetched: {named}. The others are kept, so the next start "
            "continues from there. Leave such images out with --config.data.on_bad_image=skip."
        )
    splits = {}
    for split, (paths, labels) in listing.splits.items():
        kept = np.array([path not in failed for path in paths], bool)
        splits[split] = (tuple(path for path in paths if path not in failed), labels[kept])
    return dataclasses.replace(listing, splits=splits), failed
