"""What every source says of itself, in which words, and how long it may be."""

import ast
import re

from tests.test_architecture import ROOT, SOURCES

FILE_LINES = 420
FUNCTION_LINES = 60  # of code: without the docstring, comments and blank lines
BANNED = ("anew", "so long", "is not to be had", "who next holds", "there is not one")
PHRASE = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef

#: What breaks a rule today: each is to be mended, and then taken off.
KNOWN: set[str] = set()


def below(name, child):
    """The name of what stands in a module or deeper: ``m.py:Class.method``."""
    return f"{name}{'.' if ':' in name else ':'}{child.name}"


def docstring(node):
    return ast.get_docstring(node) or ""


def public_things(node, name):
    """A module or a class and all below it that others may use, each by its name."""
    yield name, node
    listed = docstring(node).splitlines()  # attributes may be described where the class is
    for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
        hidden = not isinstance(child, ast.ClassDef | FUNCTIONS) or child.name.startswith("_")
        if not hidden and child.name not in listed:
            yield from public_things(child, below(name, child))


def functions(node, name):
    """Every function, private and nested ones too, by its name."""
    for child in ast.iter_child_nodes(node):
        inner = below(name, child) if isinstance(child, ast.ClassDef | FUNCTIONS) else name
        if isinstance(child, FUNCTIONS):
            yield inner, child
        yield from functions(child, inner)


def code_lines(function, lines):
    first = function.body[0]
    described = range(first.lineno, first.end_lineno + 1) if docstring(function) else ()
    numbers = range(function.lineno, function.end_lineno + 1)
    code = (lines[number - 1].strip() for number in numbers if number not in described)
    return sum(bool(line) and not line.startswith("#") for line in code)


def faults(name, text):
    """What breaks a rule in one source."""
    tree, lines = ast.parse(text), text.splitlines()
    for thing, node in public_things(tree, name):
        first_sentence = re.split(r"[.!?](?=\s|$)", docstring(node))[0]
        if len(first_sentence.split()) < 2:  # nothing, or "K."
            yield f"{thing} is not described"
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for phrase in PHRASE.findall(" ".join(node.value.split())):
                yield f"{name} says '{phrase.lower()}'"
    for function, node in functions(tree, name):
        if code_lines(node, lines) > FUNCTION_LINES:
            yield f"{function} is too long"
    if len(lines) > FILE_LINES:
        yield f"{name} is too long"


def test_every_source_describes_itself_in_plain_words_and_is_short():
    names = {path.relative_to(ROOT).as_posix(): path for path in SOURCES}
    broken = {fault for name, path in names.items() for fault in faults(name, path.read_text())}
    new, mended = sorted(broken - KNOWN), sorted(KNOWN - broken)
    assert not new, "\n".join(new)
    assert not mended, "\n".join(["mended, so take it off the list:", *mended])


EXAMPLE = '''"""A module."""
class Public:
    """A class.

    listed
        Described here.
    """
    def listed(self): ...
    def bare(self): ...
    def brief(self):
        """K."""
        def inner(): ...
    def _private(self): raise ValueError(f"{self} is  not\\n to be had")
'''


def test_the_rules_see_what_breaks_them():
    undescribed = {"m:Public.bare is not described", "m:Public.brief is not described"}
    assert set(faults("m", EXAMPLE)) == {*undescribed, "m says 'is not to be had'"}
    described = '"""A module."""\ndef f():\n    """Two words.\n\n    More.\n    """\n\n    # why\n'
    longest = described + "    x = 1\n" * (FUNCTION_LINES - 1)  # and `def`
    assert set(faults("m", longest)) == set()
    assert set(faults("m", longest + "    x = 1\n")) == {"m:f is too long"}
    assert set(faults("m", '"""A module."""' + "\n" * (FILE_LINES + 1))) == {"m is too long"}
