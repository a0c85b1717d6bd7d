"""How Sphinx builds the site: `make docs`."""

import logging
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_extensions"))
logging.getLogger("matplotlib.animation").setLevel("ERROR")  # it would rather have ffmpeg

PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
copyright = author
release = version = PROJECT["version"]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "repository_files",
    "config_keys",
    "commands",
    "public_names",
    "no_requests",
]
exclude_patterns = ["_build", "examples"]
default_role = "py:obj"
smartquotes = False
highlight_language = "none"  # a block says what it is

# Links of the repository's own files are resolved by `repository_files`.
repository_root = str(DOCS.parent)
repository_url = PROJECT["urls"]["Source"]

myst_heading_anchors = 4

autodoc_typehints = "none"  # the docstrings say it in words
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # autodoc lists them
numpydoc_validation_checks: set[str] = set()

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "gallery_order.LearningOrder",
    "abort_on_example_error": True,
    "run_stale_examples": True,  # an unchanged page can have other results: the code changes
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "reset_modules": ("matplotlib", "strict_gallery.set_filters"),
    "reset_modules_order": "both",
    "show_signature": False,
    "remove_config_comments": True,
    "matplotlib_animations": (True, "jshtml"),
    "capture_repr": (),
}

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_sourcelink = False
html_theme_options = {
    "github_url": repository_url,
    "logo": {"text": project},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {page: [] for page in ("index", "start", "coming_from")}
