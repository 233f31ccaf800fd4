"""Pages and messages that list the networks or their families name every registered one."""

import re

import pytest

from flax_augtl.config.networks import NETWORKS
from flax_augtl.models.registry import FAMILIES
from tests.conftest import ROOT


def test_the_table_of_networks_has_every_registered_name_and_no_other():
    section = (ROOT / "docs/weights.md").read_text().split("## Networks")[1].split("\n## ")[0]
    named = set()
    for row in re.findall(r"^\| (`.*?) \|", section, re.M):
        names = re.findall(r"`(\w+)`", row)
        named |= {name for name in names if not name.startswith("_")}
        named |= {name + ending for name in names for ending in names if ending.startswith("_") and name != ending}
    assert named - {"config.network"} == set(NETWORKS)


@pytest.mark.parametrize("file", ["pretrained/match.py", "pretrained/metadata.py", "pretrained/relatives.py"])
def test_messages_about_what_fits_no_network_name_every_family(file):
    text = (ROOT / "flax_augtl" / file).read_text()
    assert all(family.__name__ in text for family in FAMILIES.values())


@pytest.mark.parametrize("page", ["README.md", "docs/weights.md"])
def test_pages_about_the_networks_name_every_family(page):
    text = (ROOT / page).read_text()
    assert all(family.__name__ in text for family in FAMILIES.values())
