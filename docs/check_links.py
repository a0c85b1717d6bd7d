"""Check that every link within the built site leads to a page, and to a place on it.

::

    python docs/check_links.py docs/_build/html
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse


class Page(HTMLParser):
    """The places of a page that can be linked to, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the attributes that name a place or lead to one."""
        for name, value in attrs:
            if name == "id" and value:
                self.places.add(value)
            elif name in ("href", "src") and value and not urlparse(value).scheme:
                self.links.append(value)


@cache
def parse(path: Path) -> Page:
    """Parse a page, once."""
    return Page(path.read_text())


def broken_links(site: Path) -> list[str]:
    """List the links that lead nowhere, each with its page."""
    broken = []
    for path in sorted(set(site.rglob("*.html")) - set(site.glob("_static/**/*"))):
        for link in parse(path).links:
            address, place = urldefrag(unquote(link))
            target = (path.parent / address.partition("?")[0]).resolve() if address else path
            lost = not target.exists()
            if not lost and place and target.suffix == ".html":
                lost = place not in parse(target).places
            if lost:
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


def main() -> None:
    """Check the site named on the command line."""
    broken = broken_links(Path(sys.argv[1]).resolve())
    if broken:
        sys.exit("broken links:\n" + "\n".join(broken))


if __name__ == "__main__":
    main()
