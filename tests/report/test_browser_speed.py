"""The page with 50,000 features in each of four layers, in a real browser; -s shows its times."""

import statistics

import numpy as np
import pytest
import report_fixtures as made
from test_browser import CHROMIUM, FLAGS, api

from vasae_jax.names.by_embedding import Names
from vasae_jax.report.page.build import build_page

FEATURES, WORDS, LAYERS = 50_000, 47_000, (3, 9, 20, 27)
TYPED = ("the value", "iterable", "kona", "e")
"""Letter by letter. The first letters of each are in more than half of the features."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs apt-get install chromium"),
]

TYPE = """async (words) => {
  const field = document.getElementById('search');
  const tick = () => new Promise((done) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  });
  const times = { shown: [], counted: [] };
  for (const word of words) {
    for (let end = 1; end <= word.length; end += 1) {
      performance.clearMarks();
      field.value = word.slice(0, end);
      const began = performance.now();
      field.dispatchEvent(new Event('input', { bubbles: true }));
      while (!performance.getEntriesByName('vasae-counted').length) await tick();
      for (const [name, all] of Object.entries(times))
        all.push(performance.getEntriesByName(`vasae-${name}`)[0].startTime - began);
    }
  }
  return times;
}"""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    reports = [made.report(FEATURES, WORDS, layer, layer) for layer in LAYERS]
    same = Names(np.arange(FEATURES)[:, None], np.ones((FEATURES, 1), np.float32))
    keys = [report.label.key for report in reports]
    matches = {key: {other: same for other in keys if other != key} for key in keys}
    return build_page(tmp_path_factory.mktemp("report") / "page", reports, matches)


def test_few_of_200_000_features_are_drawn_and_all_are_counted(index):
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.goto(index.as_uri())
        page.wait_for_selector(".row")
        # From the beginning of the navigation: the first rows are on the page.
        shown = page.evaluate("performance.getEntriesByName('vasae-shown')[0].startTime")
        page.wait_for_function("() => vasae.runs.all.every((run) => run.text)", timeout=60_000)
        typed = page.evaluate(TYPE, TYPED)
        page.select_option("[name=fires]", "all")
        page.fill("#search", "")
        total = f"{FEATURES * len(LAYERS):,} of {FEATURES * len(LAYERS):,}"
        page.wait_for_function(
            "n => document.querySelector('.count').textContent.startsWith(n)", arg=total
        )
        drawn = page.locator(".row").count()
        browser.close()
    key, counted = (statistics.median(typed[name]) for name in ("shown", "counted"))
    print(
        f"first rows {shown:.0f} ms; a key {key:.0f} ms until its rows are shown, "
        f"{max(typed['shown']):.0f} at most; {counted:.0f} ms until all are counted, "
        f"{max(typed['counted']):.0f} at most"
    )
    assert len(typed["counted"]) == sum(map(len, TYPED))
    assert drawn < 60  # of 200,000
