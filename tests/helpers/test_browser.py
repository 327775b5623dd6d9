"""The browser's eye, on a page with nothing wrong and on pages with one thing wrong each."""

import os
import struct

import pytest

from helpers import browser

pytestmark = pytest.mark.slow

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
GOOD = f"""
<h1 id="heading">Accuracy by round</h1>
<p>{"Words enough to fill a line and go on to the next. " * 20}</p>
<figure><img src="{PIXEL}" alt="one dot"><figcaption>A dot</figcaption></figure>
<figure><svg width="300" height="40" role="img" aria-label="a line">
  <path d="M0 0 H9000" stroke="black"/><svg width="5" height="5"></svg></svg></figure>
<svg width="300" height="40" role="img"><title>another line</title></svg>
<canvas width="300" height="40" role="img" aria-labelledby="heading"></canvas>
<div style="overflow-x: auto"><table><tr><td>narrow<td>enough</table></div>
<script>console.log("fine"); console.warn("fine too")</script>
"""
TABLE = '<table style="width: 2000px"><tr><td>wide</table>'


@pytest.fixture
def see(tmp_path):
    """Look at a page with this body."""
    if browser.chromium() is None:
        pytest.skip("no Chromium on PATH")

    def see(body, width, head=VIEWPORT):
        file = tmp_path / "a page's #1 & only.html"
        page = '<!doctype html><html lang="en"><meta charset="utf-8"><title>A page</title>'
        file.write_text(f"{page}{head}<body>{body}</body></html>")
        return browser.look(file, width)

    return see


def wrong(look, width):
    """The facts for which there is something wrong with a page."""
    facts = {
        "errors": look.errors,
        "requests": look.requests,
        "page": (look.scroll_width, look.client_width) != (width, width),
        "sideways": look.sideways,
        "without_alternative": look.without_alternative,
    }
    return {fact for fact, value in facts.items() if value}


@pytest.mark.parametrize("width", [1280, 390])
def test_a_good_page(see, width):
    look = see(GOOD, width)
    assert wrong(look, width) == set()
    assert look.title == "A page"
    assert look.plots == 4
    assert look.screenshot.startswith(b"\x89PNG")
    across, down = struct.unpack(">II", look.screenshot[16:24])
    assert across == width and down >= 900


BAD = {
    "console": ("<script>console.error('oh', 4)</script>", {"errors": ["oh 4"]}),
    "exception": (
        "<script>Promise.reject(new Error('no')); throw new Error('ah')</script>",
        {"errors": ["Error: ah", "Error: no"]},
    ),
    "image": (
        '<img src="http://example.invalid/x.png" alt="x"><div style="height: 20000px"></div>'
        '<img src="http://example.invalid/below.png" loading="lazy" alt="y">',
        {"requests": ["http://example.invalid/x.png", "http://example.invalid/below.png"]},
    ),
    "font": (
        '<link rel="preconnect" href="https://example.invalid/">'
        '<link rel="icon" href="data:,"><link rel="icon">'
        '<link rel="stylesheet" href="https://example.invalid/font.css">',
        {"requests": ["https://example.invalid/", "https://example.invalid/font.css"]},
    ),
    "block": (
        '<div class="wide block" style="width: 600px"><b>wide</b></div>',
        {"sideways": ["div.wide.block"], "page": []},
    ),
    "table": (f'<div id="box" style="overflow-x: auto">{TABLE}</div>', {"sideways": ["div#box"]}),
    "plots": (
        '<svg class="plot"></svg><svg role="img"><title> </title></svg><canvas></canvas>'
        f'<img src="{PIXEL}" alt=""><svg aria-label="no role"></svg><figure>▁▃▇</figure>'
        '<div role="img"></div>',
        {"without_alternative": ["svg.plot", "svg", "canvas", "img", "svg", "figure", "div"]},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_page_with_one_thing_wrong(see, name):
    body, expected = BAD[name]
    look = see(body, 390)
    assert wrong(look, 390) == expected.keys()
    for fact in expected.keys() - {"page"}:
        for found, start in zip(getattr(look, fact), expected[fact], strict=True):
            assert found == start or found.startswith(f"{start}\n")  # a stack trace follows


def test_a_page_that_forgets_phones(see):
    look = see("<p>small print</p>", 390, head="")
    assert wrong(look, 390) == {"page", "sideways"}
    assert look.client_width == 980 and look.sideways == ["html"]


@pytest.mark.parametrize(
    "script, complaint",
    [("echo no display >&2; exit 1", "no display"), ("sleep 100", "within 1 s")],
    ids=["dies", "hangs"],
)
def test_a_broken_browser(tmp_path, monkeypatch, script, complaint):
    fake = tmp_path / "bin" / "chromium"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    page = tmp_path / "page.html"
    page.touch()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(browser, "TIMEOUT", 1)
    monkeypatch.setattr(browser.tempfile, "tempdir", str(scratch))
    with pytest.raises(RuntimeError, match=complaint):
        browser.look(page, 390)
    assert not any(scratch.iterdir())
