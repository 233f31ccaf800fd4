"""Checks of a page: its HTML, and how a browser shows it."""

import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image


class Checked(html.parser.HTMLParser):
    """Fails on elements that are not closed in order, and on addresses outside the page."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        assert tag not in ("script", "link", "iframe", "object")
        for name, value in attributes:
            assert name not in ("href", "onload", "onerror") and (name != "src" or value.startswith("data:image/"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def browser():
    """Return the path of Chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.skip("no chromium on this machine")
    return found


def check_in_browser(page, width, folder):
    """Check that a browser shows a page in a window without scrolling sideways, broken images or requests.

    Returns:
      The page as the browser sees it.
    """
    program = browser()
    # A script measures how wide the page is, and writes it into the title of a copy without the policy.
    probe = folder / "probe.html"
    text = page.read_text("utf-8")
    policy = re.search(r"<meta http-equiv=[^>]*>", text)[0]
    probe.write_text(text.replace(policy, "").replace("</body>", """<script>
        const broken = [...document.images].filter(image => !image.naturalWidth).length;
        document.title = ["probe", document.documentElement.scrollWidth - window.innerWidth, broken,
                          performance.getEntriesByType("resource")
                          .filter(e => !e.name.startsWith("data:")).length].join(" ");
        </script></body>"""), "utf-8")  # fmt: skip
    shared = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--window-size={width},5000",
    ]

    def run(*arguments):
        return subprocess.run([*shared, *arguments], capture_output=True, text=True, timeout=120)

    shot, log = folder / "shot.png", folder / "net.json"
    # A violated policy would print ERROR lines to the console.
    done = run(f"--screenshot={shot}", f"--log-net-log={log}", "--enable-logging=stderr", f"file://{page}")
    assert shot.stat().st_size > 50_000, done.stderr
    assert "Content Security Policy" not in done.stderr
    with Image.open(shot) as image:
        assert image.width == width and np.asarray(image.convert("L")).std() > 10
    # Chromium looks for its own updates; there must be no other request.
    hosts = set(re.findall(r'"url":"(?:http|ws)s?://([^/"]+)', log.read_text(errors="replace")))
    assert not [
        host for host in hosts if not re.search(r"(^|\.)(google\.com|gvt1\.com|update\.googleapis\.com)$", host)
    ]
    dom = run("--dump-dom", f"file://{probe}").stdout
    over, broken, requests = map(int, re.search(r"<title>probe (-?\d+) (\d+) (\d+)</title>", dom).groups())
    assert over <= 0 and broken == 0 and requests == 0, "wider than the window, broken images, or requests"
    return dom
