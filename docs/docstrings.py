"""Docstrings as Markdown: prose, equations, lists, and what they say of each argument."""

import html
import inspect
import re
import textwrap
from typing import Any


def documentation(thing: Any) -> tuple[str, dict[str, str]]:
    """The docstring of a class or function as Markdown, and what it says of each argument.

    Of arguments a base class may have spoken, or the constructor.
    """
    owners = thing.__mro__[:-1] if inspect.isclass(thing) else (thing,)
    meanings: dict[str, str] = {}
    for owner in reversed(owners):
        own = vars(owner).get("__init__") if inspect.isclass(owner) else None
        for part in (owner, inspect.unwrap(own) if callable(own) else None):
            meanings |= _sections(_docstring(part))[1]
    return _markdown(_sections(_docstring(thing))[0]), meanings


def _docstring(thing: Any) -> str:
    """A thing's own docstring, none that it inherits."""
    text = getattr(thing, "__doc__", None)
    return inspect.cleandoc(text) if isinstance(text, str) else ""


def _sections(text: str) -> tuple[str, dict[str, str]]:
    """A docstring's text without its sections, and the entries of `Args`."""
    body, *rest = re.split(r"^(Args|Raises|Returns|Yields):[ ]*$", text, flags=re.MULTILINE)
    meanings: dict[str, str] = {}
    for heading, section in zip(rest[::2], rest[1::2], strict=True):
        indented, _, after = section.strip("\n").partition("\n\n")
        if after and not after.startswith(" "):
            body += "\n\n" + after
        if heading != "Args":
            continue
        for line in textwrap.dedent(indented).splitlines():
            if found := re.match(r"\*{0,2}(\w+): (.*)", line):
                name = found[1]
                meanings[name] = found[2]
            elif meanings:
                meanings[name] += " " + line.strip()
    return body.strip(), meanings


def _markdown(text: str) -> str:
    """A docstring's prose with indented lines fenced, lists apart, and no accidental markup."""
    blocks: list[str] = []
    for block in re.split(r"\n{2,}", text):
        if block.startswith("    "):
            block = "```text\n" + textwrap.dedent(block) + "\n```"
            if blocks and blocks[-1].startswith("```text"):
                blocks[-1] = blocks[-1][:-4] + "\n" + block[7:]
                continue
        elif re.search(r"^ {2,}(\d+\.|-) ", block, re.MULTILINE):
            head, *items = re.split(r"^ {2,}(?=(?:\d+\.|-) )", block, flags=re.MULTILINE)
            listed = [" ".join(item.split()) for item in items]
            parts = [inline(head.strip()), "\n".join(map(inline, listed))]
            block = "\n\n".join(filter(None, parts))
        else:
            block = inline(block)
        blocks.append(block)
    return "\n\n".join(blocks)


def inline(text: str) -> str:
    """Text whose letters mean themselves outside of backticks."""
    pieces = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(pieces), 2):
        pieces[index] = re.sub(r"([*_\[\]])", r"\\\1", html.escape(pieces[index], quote=False))
    return "".join(pieces)


def cell(markdown: str) -> str:
    """Markdown in a table's cell."""
    return markdown.replace("|", "&#124;").replace("\n", " ")


def code(text: str) -> str:
    """Text in the type of code, in a table's cell too."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"
