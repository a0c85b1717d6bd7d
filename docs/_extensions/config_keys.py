"""The directive ``config-keys``: every key of run files or cluster files, from their models."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from generated import Generated, heading, load, table
from sphinx.application import Sphinx

PLAIN = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
MANY = {"text": "texts", "integer": "integers", "number": "numbers"}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
HEADER, WIDTHS = ("key", "value", "default", "meaning"), "22 24 14 40"


def as_toml(value: Any) -> str:
    """Write a default as a run file would."""
    return json.dumps(value, ensure_ascii=False)


def described(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Say which values a JSON schema allows."""
    if "$ref" in schema:
        return described(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        kinds = [
            described(kind, definitions) for kind in schema["anyOf"] if kind != {"type": "null"}
        ]
        return ", or ".join(kinds)
    if "const" in schema:
        return f"``{as_toml(schema['const'])}``"
    if "enum" in schema:
        return " or ".join(f"``{as_toml(value)}``" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        items = described(schema.get("items", {}), definitions)
        many = MANY.get(items) or items.replace("list", "lists", 1)
        return f"list of {many}" if items else "list"
    if kind == "object":
        return f"table of {described(schema['additionalProperties'], definitions)}"
    limits = ", ".join(f"{LIMITS[name]} {schema[name]}" for name in LIMITS if name in schema)
    return f"{PLAIN.get(kind or '', '')} {limits}".strip()


def rows_of(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[list[str]]:
    """Write a row for every key of a section."""
    for name, key in schema["properties"].items():
        if subsection(key) is not None:
            yield [f"``{name}``", "table, see below", "–", key.get("description", "")]
            continue
        if name in schema.get("required", ()):
            default = "required"
        else:
            value = key.get("default", {})
            default = "–" if value is None else f"``{as_toml(value)}``"
        meaning = "decides which keys there are" if name == "kind" else key.get("description")
        if meaning is None:
            raise ValueError(f"{schema['title']}.{name} has no description")
        yield [f"``{name}``", described(key, definitions), default, meaning]


def subsection(schema: dict[str, Any]) -> str | None:
    """Name the model of a key that is a table with keys of its own."""
    kinds = [schema, *schema.get("anyOf", ())]
    names = [kind["$ref"].rpartition("/")[2] for kind in kinds if "$ref" in kind]
    return next((name for name in names if name.endswith(("Section", "Deadlines"))), None)


def summary_of(schema: dict[str, Any]) -> str:
    """Take the first line of a model's docstring, without the table's name in front."""
    line = inspect.cleandoc(schema["description"]).splitlines()[0]
    text = re.sub(r"^``\[[\w.]+\]``[^:]*: ", "", line)
    return text[0].upper() + text[1:]


class ConfigKeys(Generated):
    """Write a section for each table of a file, and a table of its keys."""

    def write(self, argument: str) -> Iterator[str]:
        """Write the keys of a pydantic model, ``module:Model``."""
        schema = load(argument).model_json_schema()
        definitions = schema["$defs"]
        for name, key in schema["properties"].items():
            kinds = key.get("oneOf")
            if kinds is None:
                model = subsection(key) or ""
                yield from self.section(f"[{name}]", model, definitions)
                yield from self.inner_sections(name, [model], definitions)
                continue
            models = [kind["$ref"].rpartition("/")[2] for kind in kinds]
            for model in models:
                kind = definitions[model]["properties"]["kind"]["const"]
                yield from self.section(f'kind = "{kind}"', model, definitions)
            yield from self.inner_sections(name, models, definitions)

    def inner_sections(
        self, name: str, models: list[str], definitions: dict[str, Any]
    ) -> Iterator[str]:
        """Write the tables within a table, each once."""
        tables = {
            inner: subsection(value)
            for model in models
            for inner, value in definitions[model]["properties"].items()
        }
        for inner, model_name in tables.items():
            if model_name is not None:
                yield from self.section(f"[{name}.{inner}]", model_name, definitions)

    def section(self, title: str, model: str, definitions: dict[str, Any]) -> Iterator[str]:
        """Write one table of a file."""
        schema = definitions[model]
        yield from heading(title, "-")
        yield from (summary_of(schema), "")
        yield from table(HEADER, rows_of(schema, definitions), WIDTHS)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}
