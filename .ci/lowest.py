"""Print pyproject.toml's requirements with every lower bound as the exact version."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
    print(re.sub(r">=([\w.]+).*", r"==\1", requirement))
