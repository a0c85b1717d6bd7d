"""Pages made of the repository's own files, and links that work in both places.

A page shows a file of the repository, or the section of one, by

    ```{repository-file} README.md Promises
    ```

In pages and in such files, a link to a file that is a page of the site leads to that page, and a
link to any other file of the repository leads to it on the web. What is not there is left as it
stands, which MyST then reports.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

SHOWN = re.compile(
    r"^```\{repository-file\} (?P<path>\S+)(?: (?P<section>.+))?\n```$", re.MULTILINE
)
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s:#]+)(?P<anchor>#[^)\s]*)?(?=\))")


def section_of(text: str, heading: str) -> str:
    """Cut a section out of a file, without its heading.

    Raises
    ------
    ValueError
        The file has no such section.
    """
    match = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    if match is None:
        raise ValueError(f"no section {heading!r}")
    return match[1].strip() + "\n"


class Links:
    """Where the links of pages and files lead on the site."""

    def __init__(self, root: Path, docs: Path, url: str) -> None:
        self.root, self.docs, self.url = root, docs, url
        self.page_of: dict[Path, Path] = {}
        for page in docs.rglob("*.md"):
            self.page_of[page] = page
            for shown in SHOWN.finditer(page.read_text()):
                if shown["section"] is None:
                    self.page_of[root / shown["path"]] = page
        self.page_of[root / "README.md"] = docs / "index.md"

    def expand(self, page: Path, text: str) -> str:
        """Put the files that a page shows into its text, and set every link."""

        def show(shown: re.Match[str]) -> str:
            path = self.root / shown["path"]
            content = path.read_text()
            if shown["section"] is not None:
                content = section_of(content, shown["section"])
            return self.relink(content, path, page)

        return SHOWN.sub(show, self.relink(text, page, page))

    def relink(self, text: str, written_in: Path, page: Path) -> str:
        """Set the links of a text that stands in one file and is shown on a page."""

        def relink(link: re.Match[str]) -> str:
            target = Path(os.path.normpath(written_in.parent / link["path"]))
            anchor = link["anchor"] or ""
            if target in self.page_of:
                return os.path.relpath(self.page_of[target], page.parent) + anchor
            if target.is_relative_to(self.docs) or not target.exists():
                return link[0]
            kind = "tree" if target.is_dir() else "blob"
            return f"{self.url}/{kind}/main/{target.relative_to(self.root)}{anchor}"

        return LINK.sub(relink, text)


def expand(app: Sphinx, docname: str, source: list[str]) -> None:
    """Expand the Markdown pages as Sphinx reads them."""
    page = Path(app.env.doc2path(docname))
    if page.suffix == ".md":
        links = Links(Path(app.config.repository_root), Path(app.srcdir), app.config.repository_url)
        source[0] = links.expand(page, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the extension."""
    app.add_config_value("repository_root", "", "env")
    app.add_config_value("repository_url", "", "env")
    app.connect("source-read", expand)
    return {"parallel_read_safe": True}
