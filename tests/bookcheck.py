"""What a reader of a built book would stumble over.

`python tests/bookcheck.py _build/html [--screenshots DIR]` checks the files (links, anchors,
images, downloads, the boxes that say how to re-run a page, resources of other hosts) and then opens
every page in headless Chromium: console errors, failed and external requests, images that are not
drawn, formulas that are not set, showers that do not turn, pages wider than a small screen. It
prints one line per problem; the exit status is 1 if there is any.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import itertools
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SCREENS = {"desk": {"width": 1280, "height": 900}, "telephone": {"width": 390, "height": 800}}

# Attributes that make a browser load something, as opposed to links that a reader follows.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
NOT_LOADED = {"canonical", "index", "search", "next", "prev", "author", "copyright"}

# Links to files of these kinds are downloads.
DOWNLOADED = {".ipynb", ".md", ".csv", ".json", ".h5", ".zip", ".pdf"}

Problems = list[tuple[str, str]]


def pages(root: Path) -> dict[str, BeautifulSoup]:
    """Every HTML page below ``root``, parsed, by its path relative to it."""
    found = (path for path in sorted(root.rglob("*.html")) if "_static" not in path.parts)
    return {
        path.relative_to(root).as_posix(): BeautifulSoup(path.read_text(), "html.parser")
        for path in found
    }


def broken_links(root: Path) -> Problems:
    """Links, images, scripts and style sheets of the book that point at nothing in it."""
    book = pages(root)
    anchors = {
        name: {tag.get("id") or tag.get("name") for tag in page.find_all(id=True)}
        | {tag["name"] for tag in page.find_all("a", attrs={"name": True})}
        for name, page in book.items()
    }
    problems = []
    for name, page in book.items():
        for tag in page.find_all(["a", "img", "script", "link", "source"]):
            url = urlsplit(tag.get("href") or tag.get("src") or "")
            if url.scheme or url.netloc or not (url.path or url.fragment):
                continue
            target = (root / name).parent / unquote(url.path) if url.path else root / name
            target = target.resolve()
            if not target.exists():
                problems.append((name, f"broken link: {url.geturl()}"))
                continue
            inside = target.relative_to(root.resolve()).as_posix()
            missing = url.fragment and unquote(url.fragment) not in anchors.get(inside, ())
            if missing and inside in book and tag.name == "a" and url.fragment != "top":
                problems.append((name, f"broken anchor: {url.geturl()}"))
    return problems


def external_resources(root: Path) -> Problems:
    """What a browser would load from another host while it shows a page."""
    problems = []
    for name, page in pages(root).items():
        for tag in page.find_all(list(LOADED)):
            url = tag.get(LOADED[tag.name], "")
            followed = tag.name == "link" and NOT_LOADED & set(tag.get("rel", ()))
            if urlsplit(url).netloc and not followed:
                problems.append((name, f"external resource: {url}"))
    for sheet in root.rglob("*.css"):
        text = sheet.read_text(errors="replace")
        if "url(http" in text or 'url("http' in text or "@import url(//" in text:
            problems.append(
                (sheet.relative_to(root).as_posix(), "external resource in a style sheet")
            )
    return problems


def broken_downloads(root: Path) -> Problems:
    """Downloads that a reader could not use: empty files, notebooks without a cell."""
    problems = []
    for name, page in pages(root).items():
        for url in sorted({unquote(urlsplit(tag["href"]).path) for tag in page.select("a[href]")}):
            target = (root / name).parent / url
            if not url or Path(url).suffix not in DOWNLOADED or not target.is_file():
                continue  # one that is missing is a broken link
            try:
                whole = target.suffix != ".ipynb" or json.loads(target.read_text())["cells"]
            except (ValueError, KeyError):
                whole = False
            if not whole or not target.stat().st_size:
                problems.append((name, f"broken download: {url}"))
    return problems


def lacking_rerun(root: Path) -> Problems:
    """Executed pages that do not say how to run them again, in a terminal, Binder and Colab."""
    problems = []
    for name, page in pages(root).items():
        if not name.startswith("book/runs/"):
            continue
        box = page.select_one("#re-run-this-page")
        if box is None or not box.select_one("pre").text.startswith("papermill notebooks/"):
            problems.append((name, "no command to re-run it"))
            continue
        hosts = [urlsplit(tag["href"]).netloc for tag in box.select("a.study-button")]
        if hosts != ["mybinder.org", "colab.research.google.com"]:
            problems.append((name, f"buttons to re-run it: {hosts}"))
    return problems


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        """Say nothing."""


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The base URL of a local server of ``root``."""
    handler = functools.partial(_QuietHandler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _listen(page, base: str, said: list[str]) -> None:
    """Append to ``said`` what goes wrong while ``page`` loads."""

    def requested(request) -> None:
        if not request.url.startswith((base, "data:", "blob:")):
            said.append(f"external request: {request.url}")

    def answered(response) -> None:
        if response.status >= 400:
            said.append(f"status {response.status}: {response.url}")

    def logged(message) -> None:
        if message.type == "error":
            said.append(f"console: {message.text} ({message.location['url']})")

    page.on("request", requested)
    page.on("response", answered)
    page.on("console", logged)
    page.on("requestfailed", lambda request: said.append(f"request failed: {request.url}"))
    page.on("pageerror", lambda error: said.append(f"script error: {error}"))


def _seen(page) -> list[str]:
    """What is wrong with a loaded page as it is drawn."""
    undrawn = page.eval_on_selector_all(
        "img", "all => all.filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    )
    unset = page.eval_on_selector_all(
        "span.math, div.math",
        "all => all.filter(m => !m.querySelector('mjx-container svg')).map(m => m.innerText)",
    )
    failed = page.query_selector_all("mjx-merror")
    return (
        [f"image not drawn: {source}" for source in undrawn]
        + [f"formula not set: {text}" for text in unset]
        + [f"formula with an error: {merror.inner_text()}" for merror in failed]
    )


def _turned(page) -> list[str]:
    """What is wrong with the showers in space of a page: not drawn, or deaf to the keyboard."""
    showers = page.query_selector_all(".study-shower")
    if not showers:
        return []
    try:
        page.wait_for_function(
            "n => document.querySelectorAll('.study-shower-plot canvas').length >= n",
            arg=len(showers),
            timeout=30_000,
        )
    except Exception:
        return ["showers in space: not drawn"]
    eye = "document.querySelector('.study-shower-plot').layout.scene.camera.eye.x"
    before = page.evaluate(eye)
    page.focus(".study-shower-plot")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(500)
    return [] if page.evaluate(eye) != before else ["showers in space: arrow keys do not turn them"]


def look(root: Path, screenshots: Path | None = None) -> Problems:
    """Open every page in headless Chromium; pictures of both screen sizes go to ``screenshots``."""
    from playwright.sync_api import sync_playwright

    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        sys.exit(f"no browser found; install one of {', '.join(BROWSERS)}")
    problems = []
    with served(root) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=list(BROWSER_OPTIONS)
        )
        for name, (screen, size) in itertools.product(pages(root), SCREENS.items()):
            said: list[str] = []
            page = browser.new_page(viewport=size)
            _listen(page, base, said)
            page.goto(base + name, wait_until="load", timeout=120_000)
            # Formulas are set after the page has loaded.
            page.wait_for_timeout(300)
            said += _seen(page) + _turned(page)
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > size["width"]:
                said.append(f"{width} px wide on a screen of {size['width']} px")
            if screenshots:
                file = screenshots / screen / f"{name.removesuffix('.html').replace('/', '-')}.png"
                page.screenshot(path=str(file), full_page=screen == "desk", animations="disabled")
            page.close()
            problems += [(name, text) for text in said]
        browser.close()
    return list(dict.fromkeys(problems))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("html", type=Path, help="the folder of the built book")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of the pages")
    arguments = parser.parse_args()
    if not (arguments.html / "index.html").exists():
        parser.error(f"{arguments.html} holds no built book")
    root = arguments.html
    problems = broken_links(root) + broken_downloads(root) + lacking_rerun(root)
    problems += external_resources(root) + look(root, arguments.screenshots)
    for name, text in problems:
        print(f"{name}: {text}")
    print(f"{len(pages(root))} pages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
