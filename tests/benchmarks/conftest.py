"""Small images on disk, as the tests of the data have them."""

from tests.data.conftest import data, make_folder, noise_image, preprocessing

__all__ = ["data", "make_folder", "noise_image", "preprocessing"]
