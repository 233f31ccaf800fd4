"""Every link of the documentation leads somewhere, and every file that it names exists."""

import os
import re

import pytest

from tests.conftest import ROOT
from tests.docs import pages


def test_the_pages_that_a_reader_looks_for():
    expected = (
        *("architecture", "configuration", "data", "gpu", "heads", "multihost", "performance"),
        *("reliability", "results", "runs", "study", "tpu", "weights"),
    )
    assert {f"docs/{name}.md" for name in expected} | {"docs/quickstart.ipynb"} <= {*pages.PAGES}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {*pages.PAGES}
    assert (ROOT / "CITATION.cff").exists() and (ROOT / "LICENSE").exists()


def test_the_readme_is_short_and_links_to_every_page():
    assert len(pages.text_of("README.md").splitlines()) <= 150
    assert {name for name in pages.PAGES if name.startswith("docs/")} <= {*pages.links("README.md")}


@pytest.mark.parametrize("name", pages.PAGES)
def test_links_lead_somewhere(name):
    for link in pages.links(name):
        target, _, anchor = link.partition("#")
        if ":" in target:
            assert target.startswith("https://"), link
            continue
        path = os.path.normpath(pages.PAGES[name].parent / target) if target else str(pages.PAGES[name])
        assert os.path.exists(path), f"{name} links to {link}"
        if anchor:
            assert anchor in pages.anchors(os.path.relpath(path, ROOT)), f"{name} links to {link}"


@pytest.mark.parametrize("name", pages.PAGES)
def test_files_that_are_named_exist(name):
    """A path within the repository; on the page about the rooms also one within the package."""
    tops = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - {"runs", "build"}
    roots = [ROOT]
    if name == "docs/architecture.md":
        tops |= {path.name for path in (ROOT / "flax_augtl").iterdir()}
        roots.append(ROOT / "flax_augtl")
    for span in pages.code(name):
        if re.fullmatch(r"[\w./-]+", span) and "/" in span and span.split("/")[0] in tops:
            assert any((root / span).exists() for root in roots), f"{name} names {span}"


@pytest.mark.parametrize("name", pages.PAGES)
def test_pages_name_nothing_of_the_machine_that_wrote_them(name):
    text = pages.PAGES[name].read_text("utf-8")
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/\w+", text)
    if name == "docs/configuration.md":  # Made of the comments of configs/common.py.
        return
    assert not re.search(r"\bpictures?\b", pages.prose(name).replace("`photo` `picture`", "")), name


def test_pages_have_no_gaps():
    for name in pages.PAGES:
        assert not re.findall(r"\b(?:TODO|FIXME|TBD|XXX)\b", pages.text_of(name)), name
