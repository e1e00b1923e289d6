"""The report that a quickstart leaves, in a real browser: its real parts, with a tiny model."""

import pydoc_data.topics

import pytest
from lm_fixtures import llama_config, random_model, save_model
from test_browser import CHROMIUM, FLAGS, api

from vasae_jax.cli.main import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs apt-get install chromium"),
]
SMALL = [
    "--sae.d-sae=64", "--sae.k=4", "--run.steps=12", "--data.batch=64", "--data.readers=4",
    "--mesh.data=1",
]  # fmt: skip


def test_the_report_of_a_quickstart_opens_and_leads_from_page_to_page(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    save_model(random_model(llama_config()), tmp_path / "model")
    (tmp_path / "texts").mkdir()
    for name, text in list(pydoc_data.topics.topics.items())[:12]:
        (tmp_path / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    given = [f"--model={tmp_path / 'model'}", f"--text={tmp_path / 'texts'}", "--layers=1,2"]
    assert main(["quickstart", *given, f"--out={tmp_path / 'out'}", *SMALL]) == 0
    index = tmp_path / "out" / "report" / "index.html"
    assert f"open {index} in a browser" in capsys.readouterr().out
    said = []
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{index.as_uri()}#/features?fires=alive")
        page.locator(".row .c-feature a").first.click()
        page.wait_for_selector(".examples li mark")
        page.get_by_role("link", name="Heatmaps").click()
        page.wait_for_selector(".heatmap")
        assert page.locator(".cases button").count() == 8
        page.locator(".heatmap td a").first.click()
        page.wait_for_selector(".feature-head")
        page.get_by_role("link", name="Figures").click()
        page.wait_for_function("() => [...document.images].some((image) => image.naturalWidth > 0)")
        browser.close()
    assert said == []
