"""What mkdocs does besides: the reference is written, and pages are found without being listed."""

import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_written: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> None:
    """Write the reference, and put pages in the place of names with * in the navigation."""
    if not _written:
        _written.update(reference.pages())
    docs = Path(config.docs_dir)
    there = {file.relative_to(docs).as_posix(): file.read_text() for file in docs.rglob("*.md")}
    there |= {f"reference/{name}": text for name, text in _written.items()}
    listed = set(_names(config.nav))
    free = {name: _title(text) for name, text in there.items() if name not in listed}
    config.nav = [_expanded(entry, free) for entry in config.nav or []]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of the reference."""
    for name, text in _written.items():
        files.append(File.generated(config, f"reference/{name}", content=text))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put links to the pages there are in the place of `<!-- pages: methods/*.md -->`."""

    def links(found: re.Match[str]) -> str:
        names = [f.src_uri for f in files if f.src_uri != page.file.src_uri]
        own = Path(page.file.src_uri).parent.as_posix()
        texts = {name: Path(config.docs_dir, name) for name in _matching(found[1], names)}
        titles = {name: _title(path.read_text()) for name, path in texts.items()}
        order = sorted(titles, key=lambda name: titles[name].lower())
        up = "" if own == "." else "../" * len(own.split("/"))
        return "\n".join(f"- [{titles[name]}]({up}{name})" for name in order)

    return re.sub(r"<!-- pages: (\S+) -->", links, markdown)


def _names(entry: Any) -> list[str]:
    """Pages that a navigation names in full."""
    if isinstance(entry, dict):
        return _names(list(entry.values()))
    if isinstance(entry, list):
        return [name for part in entry for name in _names(part)]
    return [] if entry is None or "*" in entry else [entry]


def _expanded(entry: Any, free: dict[str, str]) -> Any:
    """The navigation with pages in the place of names with *."""
    if isinstance(entry, dict):
        return {title: _expanded(part, free) for title, part in entry.items()}
    if isinstance(entry, list):
        parts = [_expanded(part, free) for part in entry]
        return [page for part in parts for page in (part if isinstance(part, list) else [part])]
    if "*" not in entry:
        return entry
    # A section's own page first, the others in order of their titles.
    found = _matching(entry, list(free))
    return sorted(found, key=lambda name: (not name.endswith("/index.md"), free[name].lower()))


def _matching(pattern: str, names: list[str]) -> list[str]:
    """Names that fit a pattern whose * stands for no slash."""
    expression = re.escape(pattern).replace(r"\*", "[^/]*")
    return [name for name in names if re.fullmatch(expression, name)]


def _title(text: str) -> str:
    """A page's first heading."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else "?"
