"""A listing with images on the web → the same with every image at hand."""

import dataclasses

import numpy as np

from flax_augtl.data.errors import DataError, listed
from flax_augtl.data.sources.downloads import fetch, is_url
from flax_augtl.data.sources.image_files import Listing

_ENOUGH = 10  # Failures after which the rest is not tried, where one suffices to end.


def fetched(listing: Listing, on_bad_image: str) -> tuple[Listing, dict[str, str]]:
    """Fetch the images of a listing that are on the web; copies that are in the cache are kept.

    Args:
        listing: the files.
        on_bad_image: as in config.data.

    Returns:
        The listing, and, where `on_bad_image` is "skip", {address: reason} of the images that it no longer has.

    Raises:
        DataError: an image cannot be fetched, and `on_bad_image` is not "skip".
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
            f"{len(tried)} of {len(urls)} images could not be fetched: {named}. What was fetched is kept, so a new start "
            "goes on from there. Leave such images out with --config.data.on_bad_image=skip."
        )
    splits = {}
    for split, (paths, labels) in listing.splits.items():
        kept = np.array([path not in failed for path in paths], bool)
        splits[split] = (tuple(path for path in paths if path not in failed), labels[kept])
    return dataclasses.replace(listing, splits=splits), failed
