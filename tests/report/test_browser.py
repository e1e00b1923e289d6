"""The page in a real browser, from a disk: Debian's chromium, driven by Playwright.

pip install playwright && apt-get install chromium
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import report_fixtures as made

from vasae_jax.config import Config
from vasae_jax.report.heatmap import Case
from vasae_jax.report.labels import Source, make_labels
from vasae_jax.report.make import all_charts
from vasae_jax.report.page.build import build_page
from vasae_jax.report.run_report import match_features

api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DESK = {"viewport": {"width": 1280, "height": 860}}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs apt-get install chromium")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A report of two made-up layers, whose first names are hostile strings."""
    reports = [made.report(200, 120, layer, layer) for layer in (3, 9)]
    matches = match_features(reports)
    out = tmp_path_factory.mktemp("report") / "page"
    return build_page(out, reports, matches, made.heatmaps(reports), all_charts(reports))


@pytest.fixture(scope="module")
def chromium():
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, index):
    """Opens an address of the page; at the end, nothing may have been complained of."""
    said, contexts = [], []

    def open_at(address="", **settings):
        contexts.append(chromium.new_context(**{**DESK, **settings}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
        page.on(
            "request", lambda request: request.url.startswith("file://") or said.append(request.url)
        )
        page.goto(f"{index.as_uri()}{address}")
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert said == []


def count(page):
    """Features that the list says it has."""
    return int(page.locator(".count").inner_text().split()[0].replace(",", ""))


def settle(page, expected):
    page.wait_for_function(
        "n => document.querySelector('.count')?.textContent.startsWith(n)", arg=f"{expected} of"
    )


def test_search_filters_and_sorting_find_what_the_dictionary_holds(visit):
    reports = [made.report(200, 120, layer, layer) for layer in (3, 9)]
    often = sum(int((report.dictionary.fire_rate >= 0.001).sum()) for report in reports)
    page = visit()
    settle(page, often)
    page.select_option("[name=fires]", "all")
    settle(page, 400)
    page.select_option("[name=verdict]", "holds")
    settle(page, sum(int((report.dictionary.verdict == 1).sum()) for report in reports))
    page.select_option("[name=run]", "layer-9")
    settle(page, int((reports[1].dictionary.verdict == 1).sum()))
    page.select_option("[name=verdict]", "")
    page.get_by_role("button", name="Feature", exact=True).click()
    rows = page.locator(".row .c-feature a")
    assert [rows.nth(i).inner_text() for i in range(3)] == ["0", "1", "2"]
    page.get_by_role("button", name="Fires", exact=True).click()
    strongest = int(reports[1].dictionary.fire_rate.argmax())
    assert rows.first.inner_text() == str(strongest)
    # Features of which a name is found come first, and before these the one of that number.
    page.fill("#search", "29")
    page.wait_for_function(
        "() => document.querySelector('.row .c-feature a')?.textContent === '29'"
    )
    page.fill("#search", " value")
    page.wait_for_function(
        "() => document.querySelector('.count').textContent.includes('by a layer')"
    )
    assert "value" in page.locator(".row .c-name").first.inner_text()
    # What is found is in the address, so that it can be sent.
    page.fill("#search", "")
    page.locator("h1").click()
    page.keyboard.press("/")
    page.keyboard.type("onerror=ALERT")
    page.wait_for_function("() => location.hash.includes('q=onerror')")
    page.wait_for_timeout(100)
    found, address = count(page), page.evaluate("location.hash")
    assert 0 < found < 200
    again = visit(address)
    settle(again, found)
    assert again.locator("#search").input_value() == "onerror=ALERT"


RANKS = """async (query) => {
  const { runs, filters, search } = vasae;
  const order = filters.sortedRows('hold', true), pass = new Uint8Array(runs.total).fill(1);
  const previous = window.last, cancelled = () => false;
  const early = [];
  const rows = (ranks) => [...filters.choose(order, pass, ranks).rows];
  window.last = await search.find(
    { query, order, pass, room: 40, previous, cancelled }, (ranks) => early.push(rows(ranks)));
  return { ranks: [...window.last.ranks], rows: rows(window.last.ranks), early };
}"""
EVERY_LINE = """(query) => vasae.runs.all.flatMap((run) => {
  const typed = (id) =>
    run.vocab[id].replaceAll('␣', ' ').replaceAll('\\\\x0a', ' ').toLowerCase();
  return run.text.text.split('\\n').map((line, feature) => {
    if (query === String(feature)) return 3;
    const ids = [...vasae.store.line(run.table.names, feature)];
    const names = ids.filter((id) => id >= 0).map(typed);
    return names.some((name) => name.includes(query)) ? 2 : Number(line.includes(query));
  });
})"""


def test_a_search_finds_what_looking_at_every_line_does(visit):
    page = visit("#/features?q=value")
    page.wait_for_function("() => document.querySelector('.count').textContent.includes(' of ')")
    known_early = 0
    # Letter by letter, then other words: what was found before must not stand in the way.
    for query in ("e", "ke", "kef", "k", "the value", "th", "29", "o", "value", "no such word"):
        result = page.evaluate(RANKS, query)
        assert result["ranks"] == page.evaluate(EVERY_LINE, query), query
        for rows in result["early"]:  # the rows in view are those that are there in the end
            known_early += 1
            assert rows[:40] == result["rows"][:40], query
    assert known_early > 3


def test_a_feature_opens_and_links_lead_on(visit):
    page = visit("#/features?fires=all&sort=feature&down=0&run=layer-3")
    page.locator(".row .c-feature a").nth(4).click()
    page.wait_for_selector(".feature-head")
    assert page.evaluate("location.hash") == "#/feature/layer-3/4"
    for title in ("Where it fires most", "Layer names", "Names by embedding", "In other runs"):
        assert page.get_by_role("heading", name=title).count() == 1
    assert page.locator(".examples li").count() == 16
    assert page.locator(".examples mark").count() == 16
    page.locator(".three section").nth(2).locator("a").first.click()
    page.wait_for_function("() => location.hash.startsWith('#/feature/layer-9/')")
    page.go_back()
    page.wait_for_function("() => location.hash === '#/feature/layer-3/4'")
    assert "never" in visit("#/feature/layer-3/1").locator(".facts").inner_text()
    assert visit("#/feature/layer-3/9999").get_by_text("No such feature").count() == 1


LOOK = """(element) => {
  const style = getComputedStyle(element);
  return [parseFloat(style.fontSize), style.color];
}"""


def test_the_first_tested_name_is_large_and_untested_names_are_grey(visit):
    page = visit("#/feature/layer-3/4")
    page.wait_for_selector(".feature-head")
    size, ink = page.locator(".feature-head h1 .chip").first.evaluate(LOOK)
    assert size >= 1.5 * page.locator(".feature-head h1 .also").first.evaluate(LOOK)[0]
    names = page.locator("section:has(> h2:text-is('Layer names')) tbody tr")
    dictionary = made.report(200, 120, 3, 3).dictionary
    assert names.count() == 10
    for row, verdict in zip(names.all(), dictionary.layer_verdict[4], strict=True):
        grey = row.locator(".chip").evaluate(LOOK)[1] != ink
        assert grey == (verdict == 0) == ("untested" in row.inner_text())
    # Precision and recall of the first name: the rows that fire, that have it, and both.
    fired, text, both = (
        int(array[4].flat[0])
        for array in (dictionary.fired_rows, dictionary.layer_text_rows, dictionary.layer_rows)
    )
    picture = page.locator(".facts .overlap")
    assert picture.get_attribute("aria-label") == (
        f"{fired} rows fire, {text} have the name, {both} both"
    )
    widths = [float(one.get_attribute("width")) for one in picture.locator("rect").all()]
    every = fired + text - both
    assert widths == pytest.approx([100 * n / every for n in (fired - both, both, text - both)])
    # A feature whose names are all untested has none of its own.
    page = visit("#/feature/layer-3/52")
    assert "has no tested name" in page.locator(".feature-head h1").inner_text()
    assert page.locator(".feature-head h1 .chip, .overlap, .alike").count() == 0


def test_features_that_share_the_first_name_are_one_click_away(visit):
    dictionary = made.report(200, 120, 3, 3).dictionary
    same = (
        (dictionary.layer_token_ids[:, 0] == dictionary.layer_token_ids[5, 0])
        & (dictionary.layer_relation == dictionary.layer_relation[5])
        & (dictionary.layer_verdict[:, 0] != 0)
    )
    assert same.sum() == 2
    page = visit("#/feature/layer-3/5")
    page.get_by_role("link", name="1 other feature has this first name").click()
    page.wait_for_function("() => location.hash.includes('named=')")
    settle(page, 2)
    rows = page.locator(".row .c-feature a")
    assert sorted(int(row.inner_text()) for row in rows.all()) == same.nonzero()[0].tolist()
    shown = made.vocab(120).display(int(dictionary.layer_token_ids[5, 0]))
    assert page.locator(".only .chip").inner_text() == shown.replace("\\\\", "\\")
    again = visit(page.evaluate("location.hash"))
    settle(again, 2)
    again.get_by_role("button", name="Show all").click()
    settle(again, 200)
    assert again.locator(".only").is_hidden() and "named" not in again.evaluate("location.hash")
    alone = visit("#/feature/layer-3/100")
    assert "No other feature" in alone.locator(".alike").inner_text()
    settle(visit("#/features?named=nonsense&fires=all"), 400)


def test_hostile_tokens_are_text(visit):
    page = visit()
    for feature in range(len(made.HOSTILE)):
        page.evaluate("hash => (location.hash = hash)", f"#/feature/layer-3/{feature}")
        page.wait_for_function("n => document.title.startsWith(`Feature ${n},`)", arg=feature)
        shown = made.vocab(120).display(feature)
        first = page.locator(".feature-head h1 .chip").first.inner_text()
        assert first == shown.replace("\\\\", "\\")
        assert page.locator("main script, main img, main h1 h1").count() == 0
        assert not set(page.locator("main").inner_text()) & set("\u202e\u2066\x07\x1b\u2028")


def test_a_heatmap_is_chosen_and_a_cell_opens_its_feature(visit):
    page = visit("#/heatmaps")
    page.wait_for_selector(".heatmap")
    assert page.locator(".cases button").count() == 8
    page.select_option("[name=kind]", "ambiguous")
    page.wait_for_function("() => document.querySelectorAll('.cases button').length === 2")
    page.get_by_role("button", name="facts").click()
    page.wait_for_selector("text=Albert Einstein was born")
    assert page.locator(".heatmap tbody tr").count() == 2
    page.select_option("[name=mode]", "raw")
    page.wait_for_function("() => location.hash.includes('mode=raw')")
    cell = page.locator(".heatmap td a").first
    assert cell.inner_text().startswith("at")
    page.select_option("[name=names]", "embedding")
    page.wait_for_function("() => location.hash.includes('names=embedding')")
    assert cell.locator("small").count() == 0
    page.locator(".heatmap td a").first.click()
    page.wait_for_selector(".feature-head")


def test_figures_load_with_their_data(visit, index):
    page = visit("#/figures")
    pictures = page.locator("img")
    assert pictures.count() == 8
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        page.wait_for_function(
            "image => image.complete && image.naturalWidth > 0", arg=picture.element_handle()
        )
    for link in page.locator(".files a").all():
        assert (index.parent / link.get_attribute("href")).stat().st_size > 50


def test_every_page_has_the_claim_and_the_citation(visit):
    for address in ("", "#/feature/layer-3/2", "#/heatmaps", "#/figures", "#/about"):
        page = visit(address)
        words = page.locator("footer").inner_text()
        assert "not evidence that the feature causes" in words and "2606.27941" in words
        assert "not why, not what it causes" in words


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      layers.push(colour);
      if (colour.length < 4 || colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, [r, g, b, a = 1]) =>
      below.map((v, i) => v * (1 - a) + [r, g, b][i] * a), [255, 255, 255]);
  };
  const poor = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3);
    const own = text.some((node) => node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest('option, .skip')) continue;
    const below = ground(element);
    const [r, g, b, a = 1] = parse(getComputedStyle(element).color);
    const opacity = a * Number(getComputedStyle(element).opacity);
    const ink = [r, g, b].map((v, i) => v * opacity + below[i] * (1 - opacity));
    const [one, two] = [light(ink), light(below)].sort((x, y) => y - x);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < 4.5) poor.push(`${element.className} ${element.textContent.slice(0, 20)} ${ratio}`);
  }
  return poor.slice(0, 5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_the_theme_can_be_chosen(visit, scheme):
    page = visit("", color_scheme=scheme)
    for address in ("#/features", "#/feature/layer-3/4", "#/heatmaps", "#/about"):
        page.evaluate("hash => (location.hash = hash)", address)
        page.wait_for_timeout(150)
        assert page.evaluate(CONTRAST) == []
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.locator("#theme").click()
    assert page.evaluate(ground) != before
    page.reload()
    assert page.evaluate(ground) != before  # the choice is kept


def test_on_a_phone_nothing_is_wider_than_the_screen(visit):
    page = visit("", **PHONE)
    for address in ("#/features", "#/feature/layer-3/4", "#/heatmaps", "#/figures", "#/about"):
        page.evaluate("hash => (location.hash = hash)", address)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.evaluate("location.hash = '#/features'")
    page.wait_for_selector(".row")
    page.get_by_text("Filters").click()
    assert page.locator("[name=verdict]").is_visible()


def test_the_keyboard_reaches_everything(visit):
    page = visit("#/features?fires=all&sort=feature&down=0")
    page.wait_for_selector(".row")
    page.locator(".row a").first.focus()
    for _ in range(60):  # past the rows that are drawn at first
        page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "30"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_selector(".feature-head")
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_policy_holds_and_the_copy_button_copies(visit):
    page = visit("#/feature/layer-3/4", permissions=["clipboard-read", "clipboard-write"])
    page.wait_for_selector(".feature-head")
    page.get_by_role("button", name="Copy BibTeX").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert "eprint" in page.evaluate("navigator.clipboard.readText()")
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    attributes = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
    assert not [name for name in page.evaluate(attributes) if name.startswith("on")]


def test_a_missing_file_is_said(chromium, index, tmp_path):
    folder = tmp_path / "page"
    shutil.copytree(index.parent, folder)
    (folder / "data" / "layer-3" / "table.js").unlink()
    page = chromium.new_page()
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector("text=data/layer-3/table.js is missing from this folder")
    page.close()


OVERFLOWING = """() => [...document.querySelectorAll('.scroll')]
  .filter((box) => box.scrollWidth > box.clientWidth)
  .map((box) => `${box.textContent.slice(0, 60)}: ${box.scrollWidth} in ${box.clientWidth}`)"""


@pytest.mark.parametrize("width", [1280, 1024, 390])
def test_a_features_tables_are_as_wide_as_the_page_at_most(visit, width):
    page = visit("#/feature/layer-3/0", viewport={"width": width, "height": 860})
    for feature in range(24):  # hostile names, words, and made-up ones
        page.evaluate("hash => (location.hash = hash)", f"#/feature/layer-3/{feature}")
        page.wait_for_function("n => document.title.startsWith(`Feature ${n},`)", arg=feature)
        assert page.evaluate(OVERFLOWING) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
    verdict = page.locator(".names-table .verdict").first.bounding_box()
    assert verdict["x"] >= 0 and verdict["x"] + verdict["width"] <= width


@pytest.mark.fault
@pytest.mark.parametrize(
    ("address", "heading"),
    [
        ("#/feature/layer-3/%E0%A4%A", "No such feature"),
        ("#/feature/%/1", "No such feature"),
        ("#/feature/a#b%2Fc/1", "No such feature"),
        ("#/feature/layer-3/", "No such feature"),
        ("#/feature/layer-3/1e1", "No such feature"),
        ("#/feature/layer%2D3/04", "feature 4 "),
        ("#/heatmaps/%%", "What is most active"),
        ("#/constructor", "400 features"),
        ("#/__proto__/%", "400 features"),
        ("#%", "400 features"),
    ],
)
def test_any_address_shows_a_page(visit, address, heading):
    page = visit(address)
    page.wait_for_selector(f"h1:has-text('{heading}')")


@pytest.mark.fault
def test_an_address_with_choices_that_are_none_shows_all(visit):
    reports = [made.report(200, 120, layer, layer) for layer in (3, 9)]
    often = sum(int((report.dictionary.fire_rate >= 0.001).sum()) for report in reports)
    page = visit("#/features?fires=constructor&verdict=toString&run=%23&bucket=x&sort=%&down=%00")
    settle(page, often)


@pytest.mark.fault
def test_hostile_names_of_runs_and_sentences_are_text(chromium, tmp_path):
    name = "#%2F/<b>\u202ea\x1b[2J\n\ud800"
    runs = [Source(Path(f"r/{n}{name}"), Config(), name, name) for n in range(2)]
    labels = make_labels(runs)
    reports = [replace(made.report(60, 60, 3, n), label=label) for n, label in enumerate(labels)]
    told = [
        replace(one, case=Case("own-1", f"say {name}"), model=name)
        for one in made.heatmaps(reports)[:1]
    ]
    index = build_page(tmp_path / "a#b%20c%", reports, match_features(reports), told)
    page = chromium.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    for address in ("#/features", f"#/feature/{labels[1].key}/2", "#/heatmaps", "#/about"):
        page.goto(f"{index.as_uri()}{address}")
        page.wait_for_selector("h1")
        page.wait_for_timeout(200)
        shown = page.evaluate("document.title + document.documentElement.innerText")
        titles = page.evaluate("[...document.querySelectorAll('[title]')].map(e => e.title).join()")
        assert not set(shown + titles) & set("\u202e\x1b\ud800\ufffd")
        assert page.locator("main b:has-text('\\\\u202e')").count() == 0
        if address != "#/heatmaps":
            assert "#%2F/<b>\\u202ea\\x1b[2J\\x0a\\ud800" in shown
    page.goto(f"{index.as_uri()}#/heatmaps")
    page.wait_for_selector(".heatmap")
    assert "\\u202ea\\x1b[2J" in page.locator("blockquote").inner_text()
    assert errors == []
    page.close()
