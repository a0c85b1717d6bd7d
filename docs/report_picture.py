"""Make the picture of a report that the README shows.

``python docs/report_picture.py demo/models/hipparcos/v000001/report.html``, after ``make demo``;
needs Chromium, as ``make test-browser`` does.
"""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium import webdriver

PICTURE = Path(__file__).parent / "_static" / "report.png"
WIDTH, HEIGHT = 1180, 1110  # pixels: the verdict, the numbers and the replay
SCROLL_BAR = 15


def main() -> None:
    """Open the report in Chromium, and keep what a person sees first."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", f"--window-size={WIDTH},{HEIGHT + 200}"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options) as browser:
        browser.get(Path(sys.argv[1]).absolute().as_uri())
        screenshot = Image.open(BytesIO(browser.get_screenshot_as_png()))
    first = screenshot.convert("RGB").crop((0, 0, WIDTH - SCROLL_BAR, HEIGHT))
    first.quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
