"""Types into the page of `soft serve`, moves its slider, and checks what appears; writes screenshots.

    pip install playwright                 # drives an installed Chromium
    soft serve --model MODEL               # another terminal
    python benches/serving/page.py --url http://127.0.0.1:8000 [--chromium /usr/bin/chromium] [--shots FOLDER]

Needs a model with several exits.
"""

import argparse
import pathlib

from playwright.sync_api import expect, sync_playwright

MESSAGE = "Name three colors."


def answer(page, message):
    """Sends a message, waits for the whole answer and returns its tokens: text and exit."""
    before = page.locator(".message").count()
    page.locator("#prompt").fill(message)
    page.keyboard.press("Enter")
    expect(page.locator(".message")).to_have_count(before + 2, timeout=10_000)
    expect(page.locator("#stop")).to_be_hidden(timeout=120_000)
    tokens = page.locator(".message").last.locator(".token")
    return [(token.text_content(), int(token.get_attribute("data-exit"))) for token in tokens.all()]


def check_chat(page, shot):
    page.locator("#max-tokens").fill("24")
    slider, value = page.locator("#slider"), page.locator("#slider-value")
    full = int(slider.get_attribute("max"))
    expect(value).to_contain_text("blocks")
    deep = answer(page, MESSAGE)
    depth = max(exit for _, exit in deep)
    assert deep and {exit for _, exit in deep} == {depth}, deep
    expect(page.locator("#count")).to_have_text(str(len(deep)))
    expect(page.locator("#depth")).to_have_text(f"{depth:.1f}")

    page.locator("#clear").click()
    expect(page.locator(".message")).to_have_count(0)
    slider.focus()
    for _ in range(full):
        page.keyboard.press("ArrowLeft")
    shallow_exit = int(value.text_content().split()[0])
    assert shallow_exit < depth
    shallow = answer(page, MESSAGE)
    assert {exit for _, exit in shallow} <= {shallow_exit}, shallow

    page.locator("input[value=budget]").check()
    expect(value).to_contain_text("ms per token")
    page.locator("#clear").click()
    within = answer(page, MESSAGE)
    # One exit, which one depends on what the machine does besides.
    assert len({exit for _, exit in within}) == 1 and within[0][1] < depth, within

    page.locator("input[value=speculative]").check()
    assert slider.is_disabled()
    page.locator("#clear").click()
    drafted = answer(page, MESSAGE)
    assert "".join(text for text, _ in drafted) == "".join(text for text, _ in deep), (drafted, deep)
    page.locator("#mark-drafts").check()
    page.locator("input[value=dynamic]").check()
    answer(page, "And three more?")
    bars = page.locator("#histogram li .number").all_text_contents()
    assert sum(map(int, bars)) == int(page.locator("#count").text_content()), bars
    shot("chat")


def check_lens(page, shot):
    page.locator("#tab-lens").focus()
    page.keyboard.press("Enter")
    page.locator("#lens-prompt").fill("The capital of France is")
    page.keyboard.press("Enter")
    rows = page.locator("#lens-table tbody tr")
    expect(rows.first).to_be_visible(timeout=30_000)
    depths = [int(text) for text in page.locator("#lens-table tbody th").all_text_contents()]
    assert depths == list(range(max(depths), 0, -1)), depths
    columns = page.locator("#lens-table thead th").count() - 1
    assert page.locator("#lens-table tbody td").count() == columns * len(depths)
    shot("lens")
    page.locator("#lens-prompt").fill("word " * 100)
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("64")
    page.locator("#tab-chat").click()


def check_width(page, name, width):
    """Nothing is wider than the window."""
    found = page.evaluate("document.documentElement.scrollWidth")
    assert found <= width, f"{name} at {width} pixels: content is {found} pixels wide"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", type=pathlib.Path)
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in [(1200, "light"), (375, "dark")]:
            context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page, errors = context.new_page(), []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
            page.goto(args.url)

            def shot(name):
                check_width(page, name, width)
                if args.shots:
                    args.shots.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=args.shots / f"{name}-{width}.png")

            check_chat(page, shot)
            check_lens(page, shot)
            # The refused text of the lens is the one error that belongs here.
            unexpected = [error for error in errors if "400" not in error]
            assert not unexpected, unexpected
            context.close()
            print(f"{width} pixels, {scheme}: passed")
        browser.close()


if __name__ == "__main__":
    main()
