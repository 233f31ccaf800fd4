import jax

from flax_augtl.runtime import versions


def test_versions_are_reported_without_an_installed_package():
    assert versions._version("flax_augtl_of_nobody") == "not installed" and versions._version("jax") == jax.__version__
    assert versions.versions()["jax"] == jax.__version__ and "CPU cores" in versions.versions()["device"]
