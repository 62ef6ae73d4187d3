"""The page of `serve --ui` in a real browser."""

import json
import re
import subprocess

import pytest

from .conftest import NASTY, served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect


def ask(page, picture, prompt=""):
    page.set_input_files("#ask-file", str(picture))
    page.fill("#ask-prompt", prompt)
    page.click("#ask-form button[type=submit]")
    page.wait_for_selector("#ask-answer .answer")


def test_a_picture_is_sent_and_its_sources_are_shown(page, site):
    ask(page, site.picture(3))
    cards = page.locator("#ask-answer .card")
    assert cards.count() == 10
    first = cards.first
    first.locator("img").wait_for()
    assert first.locator("img").get_attribute("alt") == "a orange rectangle"
    assert "Dee" in first.inner_text() and "MIT" in first.inner_text()
    assert re.search(r"1\. [\d.]+ %", first.inner_text())
    assert page.locator("#ask-answer .bar svg rect").count() >= 1
    assert page.locator(".banner").count() == 0


@pytest.mark.slow
def test_shares_of_the_bar_and_what_is_nobodys_add_up(page, site):
    ask(page, site.picture(5))
    label = page.locator("#ask-answer .bar svg").get_attribute("aria-label")
    shares = [float(share) for share in re.findall(r"([\d.]+) %", label)]
    assert abs(sum(shares) - 100) < 0.5


@pytest.mark.slow
def test_intervals_stand_beside_shares_where_the_answer_has_them(page, site):
    # The bundle of this test is not fitted to influence, so that its own answers have none.
    held = {"creator": "Dee", "share": 0.25, "item_count": 1, "creator_ids": []}
    answer = {
        "items": [], "creators": [{**held, "low": 0.125, "high": 0.5}, {**held, "creator": "Bo"}],
        "diffuse_share": 0.3, "withheld_share": 0.2, "out_of_distribution": False, "bundle_id": "ab", "revision": "0",
    }  # fmt: skip
    page.route("**/v1/attribute", lambda route: route.fulfill(json={"attribution": answer}))
    ask(page, site.picture(3))
    legend = page.locator("#ask-answer .legend li")
    assert "(12.5 % to 50.0 %)" in legend.first.inner_text()
    assert page.locator("#ask-answer .between").count() == 1
    label = page.locator("#ask-answer .bar svg").get_attribute("aria-label")
    assert "withheld 20.0 %" in label and "nobody in particular 30.0 %" in label
    assert "nine times in ten" in page.locator("#ask-answer").inner_text()


@pytest.mark.slow
def test_the_answer_is_downloaded_as_one_page(page, site):
    ask(page, site.picture(3), "a orange rectangle")
    with page.expect_download() as waiting:
        page.click("text=Download it as a page (PDF)")
    data = waiting.value.path().read_bytes()
    assert waiting.value.suggested_filename == "attribution.pdf"
    assert data.startswith(b"%PDF") and data.count(b"/Type /Page\n") == 1


def test_a_picture_is_generated_and_attributed(page):
    page.click("#tab-make")
    page.fill("#make-prompt", "a orange rectangle")
    page.fill("#make-steps", "4")
    page.click("#make-form button[type=submit]")
    page.wait_for_selector("#make-answer .answer")
    assert page.locator("#make-picture").get_attribute("alt") == "Generated for: a orange rectangle"
    assert page.locator("#make-picture").evaluate("image => image.naturalWidth") == 16
    assert page.locator("#make-progress").is_hidden()
    expect(page.locator("#make-status")).to_contain_text("Generated")


def test_noise_gets_a_banner_and_gives_nothing_to_anybody(page, noise):
    ask(page, noise)
    banner = page.locator(".banner")
    assert banner.get_attribute("role") == "alert" and "nothing" in banner.inner_text().lower()
    assert "nobody in particular 100.0 %" in page.locator("#ask-answer .bar svg").get_attribute("aria-label")


@pytest.mark.slow
def test_with_and_without_the_prompt_stand_side_by_side(page, site):
    page.check("#ask-both")
    ask(page, site.picture(3), "a orange rectangle")
    titles = page.locator("#ask-answer .answer > h3:first-child").all_inner_texts()
    assert titles == ["With its prompt", "Without it"]


@pytest.mark.slow
def test_two_pictures_are_compared(page, site):
    page.click("#tab-compare")
    page.set_input_files("#left-file", str(site.picture(3)))
    page.set_input_files("#right-file", str(site.picture(7)))
    page.click("#compare-form button[type=submit]")
    page.wait_for_selector("#compare-answer .answer >> nth=1")
    assert "Dee" in page.locator("#compare-shared").inner_text()


@pytest.mark.slow
def test_items_and_creators_are_browsed_and_searched(page):
    page.click("#tab-browse")
    page.wait_for_selector("#browse-found .card")
    assert page.locator("#browse-found .card").count() == 24
    page.click("#browse-more")
    cards = page.locator("#browse-found .card")
    expect(cards).to_have_count(48)
    page.fill("#browse-search", "PURPLE")
    page.click("#browse-form button[type=submit]")
    expect(cards).to_have_count(9)
    assert all("purple" in text for text in cards.all_inner_texts())
    page.select_option("#browse-kind", "creators")
    page.fill("#browse-search", "bo")
    page.click("#browse-form button[type=submit]")
    page.click("#browse-found button:has-text('Bo')")
    expect(page.locator("#browse-status")).to_contain_text("by Bo")


@pytest.mark.slow
def test_the_answer_is_downloaded(page, site):
    ask(page, site.picture(3))
    with page.expect_download() as waiting:
        page.click("text=Download this answer")
    answer = json.loads(waiting.value.path().read_text())
    assert answer["items"][0]["id"] == "1003" and "diffuse_share" in answer


def test_text_of_others_is_shown_as_it_is(page, site):
    page.click("#tab-browse")
    page.fill("#browse-search", "onerror")
    page.click("#browse-form button[type=submit]")
    cards = page.locator("#browse-found .card")
    expect(cards).to_have_count(15)
    assert cards.first.inner_text().count(NASTY) == 2
    assert cards.locator("a[href^='javascript']").count() == 0
    ask_again = page.locator("#ask-answer")
    page.click("#tab-ask")
    ask(page, site.picture(0), f"a {NASTY}")
    assert NASTY in ask_again.inner_text()
    assert ask_again.locator("script, img[onerror]").count() == 0


@pytest.mark.slow
def test_a_picture_is_pasted(page, site):
    page.evaluate(
        """async (data) => {
          const bytes = Uint8Array.from(data);
          const file = new File([bytes], "pasted.png", { type: "image/png" });
          const clip = new DataTransfer();
          clip.items.add(file);
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: clip, bubbles: true, cancelable: true }));
        }""",
        list(site.picture(3).read_bytes()),
    )
    expect(page.locator("#ask-preview")).to_be_visible()
    page.click("#ask-form button[type=submit]")
    page.wait_for_selector("#ask-answer .card")


@pytest.mark.slow
def test_what_is_no_picture_is_said_in_words(page, site, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    page.set_input_files("#ask-file", str(tmp_path / "x.png"))
    page.click("#ask-form button[type=submit]")
    page.wait_for_selector("#ask-status.bad")
    assert "image" in page.locator("#ask-status").inner_text()
    # No frame of a broken picture; a good one comes back.
    expect(page.locator("#ask-preview")).to_be_hidden()
    page.set_input_files("#ask-file", str(site.picture(3)))
    expect(page.locator("#ask-preview")).to_be_visible()


@pytest.mark.slow
def test_the_keyboard_is_enough(page):
    page.focus("#tab-ask")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-compare"
    assert page.locator("#compare").is_visible() and page.locator("#ask").is_hidden()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.id") == "tab-report"
    page.keyboard.press("Home")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
    assert seen[:4] == ["ask-file", "ask-prompt", "ask-top", "ask-both"]


def test_a_phone_shows_everything_without_scrolling_sideways(page, site):
    page.set_viewport_size({"width": 360, "height": 740})
    page.check("#ask-both")
    ask(page, site.picture(0), "a orange rectangle")
    for tab in ("ask", "compare", "make", "browse", "report"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.slow
def test_a_report_is_shown_and_its_scripts_are_not_run(page):
    page.wait_for_selector("#tab-report:visible")
    page.click("#tab-report")
    heading = page.frame_locator("#report-frame").locator("h1")
    assert heading.inner_text() == "Run of November"
    assert heading.evaluate("element => getComputedStyle(element).color") == "rgb(1, 2, 3)"


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing_serious(page, site, axe, scheme):
    page.emulate_media(color_scheme=scheme)
    ask(page, site.picture(3), "a orange rectangle")
    page.locator("#ask-answer .card img").first.wait_for()
    found = {}
    for tab in ("ask", "compare", "make", "browse"):
        page.click(f"#tab-{tab}")
        if tab == "browse":
            page.wait_for_selector("#browse-found .card")
        # As a debugger would: the page's own policy lets no other script in.
        page.evaluate(f"() => {{ {axe} }}")
        result = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
        for finding in result["violations"]:
            if finding["impact"] in {"serious", "critical"}:
                found[tab, finding["id"]] = [node["html"][:120] for node in finding["nodes"]]
    assert found == {}


@pytest.mark.slow
def test_a_token_is_asked_for_and_used(chromium, pictured_bundle, tmp_path):
    corpus, bundle = pictured_bundle
    (tmp_path / "tokens").write_text("ada secret\n")
    process, address = served(bundle, "--tokens-file", str(tmp_path / "tokens"))
    try:
        page = chromium.new_page()
        page.goto(address)
        page.wait_for_selector("#signin:visible")
        page.fill("#token", "secret")
        page.click("#token-form button")
        page.wait_for_selector("#signin", state="hidden")
        ask(page, corpus / "pictures" / "3.png")
        page.locator("#ask-answer .card img").first.wait_for()
        page.close()
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
