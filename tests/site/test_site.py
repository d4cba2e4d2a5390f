"""The built site in a browser: links, search, formulas, both schemes and widths, without a request to another host."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from mkdocstrings import Inventory

from tests.browser import CHROMIUM, needs_chromium
from tests.site.test_api import api

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")

pytestmark = [pytest.mark.slow, needs_chromium]

ROOT = Path(__file__).parents[2]
SUB_PATH = "project/docs"  # a site must not depend on where it is put
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
HIT = "genpolicy.heads.meanflow.MeanFlowHead"

FACTS = """() => ({
  links: Array.from(document.querySelectorAll("a[href]"), (link) => link.href),
  ids: Array.from(document.querySelectorAll("[id], a[name]"), (element) => element.id || element.name),
  unset: Array.from(document.querySelectorAll(".arithmatex:not(:has(.katex))"), (element) => element.textContent),
  formulas: document.querySelectorAll(".arithmatex .katex").length,
})"""
# What sticks out to the right: the page itself, or a table, code, figure or formula that no parent scrolls.
TOO_WIDE = """() => {
  const found = [];
  const edge = document.documentElement.clientWidth + 1;
  if (document.documentElement.scrollWidth > edge) found.push("page");
  for (const element of document.querySelectorAll(".md-content :is(table, pre, img, .katex, p, li, h1, h2, h3, h4)")) {
    let seen = element; // the outermost box that scrolls it, if there is one
    for (let box = element; box !== document.body; box = box.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) seen = box;
    }
    if (seen.getBoundingClientRect().right > edge) found.push(element.tagName + " " + element.textContent.slice(0, 60));
  }
  return found;
}"""


@dataclass
class Seen:
    """What happened in the browser."""

    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass
class Walk:
    """Every page of the site, opened once."""

    facts: dict[str, dict[str, Any]]
    too_wide: dict[str, list[str]]
    seen: Seen


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, in a folder below the served one."""
    folder = tmp_path_factory.mktemp("served") / SUB_PATH
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where a server on this machine serves the site."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    served = site.parents[SUB_PATH.count("/")]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{SUB_PATH}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def new_page(browser: Any, allowed: str, viewport: dict[str, int] = DESKTOP) -> tuple[Any, Seen]:
    """A page in a fresh profile that reaches nothing but the allowed address, and what is seen there."""
    context, seen = browser.new_context(viewport=viewport, color_scheme="light"), Seen()
    context.set_default_timeout(180_000)  # for a machine that is busy

    def route(one: Any) -> None:
        if one.request.url.startswith((allowed, "data:", "blob:")):
            one.continue_()
        else:
            seen.foreign.append(one.request.url)
            one.abort()

    context.route("**/*", route)
    page = context.new_page()
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("response", lambda answer: seen.failed.append(answer.url) if answer.status >= 400 else None)
    return page, seen


@pytest.fixture(scope="module")
def walk(browser: Any, site: Path, address: str) -> Walk:
    page, seen = new_page(browser, address)
    facts, too_wide = {}, {}
    # 404.html knows only the root of a host, where it is served from at any depth.
    for file in sorted(set(site.rglob("*.html")) - {site / "404.html"}):
        url = address + file.relative_to(site).as_posix()
        page.set_viewport_size(DESKTOP)
        page.goto(url)
        facts[url] = page.evaluate(FACTS)
        too_wide[f"{url} on a desktop"] = page.evaluate(TOO_WIDE)
        page.set_viewport_size(PHONE)
        too_wide[f"{url} on a phone"] = page.evaluate(TOO_WIDE)
    page.context.close()
    return Walk(facts, too_wide, seen)


def test_every_page_of_the_sources_is_there(walk: Walk) -> None:
    docs = ROOT / "docs"
    sources = {path.relative_to(docs).with_suffix(".html").as_posix() for path in docs.rglob("*.md")}
    built = {url.partition(SUB_PATH + "/")[2] for url in walk.facts}
    assert built == sources


def test_every_internal_link_leads_to_a_page_and_an_anchor(walk: Walk, site: Path, address: str) -> None:
    broken = []
    for url, facts in walk.facts.items():
        for link in set(facts["links"]):
            target, anchor = urldefrag(link)
            if not target.startswith(address.removesuffix(SUB_PATH + "/")):
                continue
            if target in walk.facts:
                if anchor and unquote(anchor) not in walk.facts[target]["ids"]:
                    broken.append(f"{url} -> {link}")
            elif not target.startswith(address) or not (site / unquote(target.removeprefix(address))).is_file():
                broken.append(f"{url} -> {link}")
    assert broken == []
    assert sum(len(facts["links"]) for facts in walk.facts.values()) > 1000


def test_links_to_other_projects_are_https(walk: Walk, address: str) -> None:
    links = {link for facts in walk.facts.values() for link in facts["links"]}
    other = {urlsplit(link).scheme for link in links if not link.startswith(address.removesuffix(SUB_PATH + "/"))}
    assert other <= {"https", "mailto"}
    for host in ("docs.pytorch.org", "gymnasium.farama.org", "numpy.org", "docs.python.org"):
        assert any(urlsplit(link).hostname == host for link in links), f"no reference leads to {host}"


def test_nothing_is_asked_of_another_host(walk: Walk) -> None:
    assert walk.seen.foreign == []


def test_nothing_fails_in_the_browser(walk: Walk) -> None:
    assert walk.seen.errors == []
    assert walk.seen.failed == []


def test_formulas_are_set(walk: Walk) -> None:
    assert {url: facts["unset"] for url, facts in walk.facts.items() if facts["unset"]} == {}
    assert sum(facts["formulas"] for facts in walk.facts.values()) > 0


def test_layout_holds_on_phone_and_desktop(walk: Walk) -> None:
    assert {where: found for where, found in walk.too_wide.items() if found} == {}


def test_the_api_pages_show_the_whole_public_interface(site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        built = set(Inventory.parse_sphinx(file))
    assert sorted(set(api.public()) - built) == []


def search(page: Any) -> None:
    """Search for a name and open what is found."""
    page.locator(".md-search__input").click()
    page.locator(".md-search__input").press_sequentially("MeanFlowHead")
    page.locator(f'.md-search-result__link[href*="#{HIT}"]').first.click()
    heading = page.locator(f'[id="{HIT}"]')
    heading.wait_for(state="visible")
    page.wait_for_function("id => document.getElementById(id).getBoundingClientRect().top < innerHeight", arg=HIT)
    assert "MeanFlowHead" in heading.inner_text()
    assert urldefrag(page.url)[1].split("?")[0] == HIT


def test_search_finds_a_class_and_opens_it(browser: Any, address: str) -> None:
    page, seen = new_page(browser, address)
    page.goto(address + "index.html")
    search(page)
    assert seen == Seen()


def test_pages_work_as_files(browser: Any, site: Path) -> None:
    page, seen = new_page(browser, site.as_uri())
    page.goto((site / "index.html").as_uri())
    search(page)
    page.locator('.md-nav__link[href*="configuration"]').first.click()
    page.wait_for_url("**/configuration.html")
    assert seen == Seen()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_scheme_can_be_changed_and_stays(browser: Any, address: str, viewport: dict[str, int]) -> None:
    page, seen = new_page(browser, address, viewport)

    def scheme() -> tuple[str, bool]:
        colour = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
        is_light = sum(map(int, colour[:3])) > 3 * 127
        return page.locator("body").get_attribute("data-md-color-scheme"), is_light

    page.goto(address + "index.html")
    assert scheme() == ("default", True)
    page.locator(".md-header__option label:visible").click()
    page.wait_for_selector('body[data-md-color-scheme="slate"]')
    assert scheme() == ("slate", False)
    page.goto(address + "configuration.html")
    assert scheme() == ("slate", False)
    page.locator(".md-header__option label:visible").click()
    page.wait_for_selector('body[data-md-color-scheme="default"]')
    assert scheme() == ("default", True)
    assert seen == Seen()
