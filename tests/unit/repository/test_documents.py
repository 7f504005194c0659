"""The form of README and docs: short, links that lead somewhere, lines that fit beside another window."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import controller
from tests.support.transcripts import PAGES, README, ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
MAX_README = 150
MAX_COLUMNS = 120

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def prose(text: str) -> Iterator[str]:
    """The lines outside of fenced blocks and of what a program has generated."""
    fenced = generated = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        generated = line.startswith(("<!-- begin", "<!-- generated")) or (generated and not line.startswith("<!-- end"))
        if not fenced and not generated:
            yield line


@cache
def anchors(document: Path) -> frozenset[str]:
    """What a Git host makes of the headings: lower case, dashes for spaces, no punctuation, numbers for repetitions."""
    seen: Counter[str] = Counter()
    found = set()
    for line in prose(document.read_text()):
        if heading := re.match(r"#+ +(.*)", line):
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return frozenset(found)


def links(text: str) -> Iterator[str]:
    """The targets of inline links, of images and of definitions."""
    for line in prose(text):
        if definition := re.match(r"\[[^]]+\]: +(\S+)", line):
            yield definition[1]
        yield from re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line))


def broken(document: Path) -> list[str]:
    """The relative links that lead to no file, or to no heading in it."""
    found = []
    for link in links(document.read_text()):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target.resolve()))):
            found.append(link)
    return found


def pointers() -> Iterator[str]:
    """The pages that the code and the manifests name, with the heading that a message names: `docs/a.md#heading`."""
    for folder in ("controller", "devenv", "demo", "crds", "deploy"):
        for path in ROOT.glob(f"{folder}/**/*"):
            if path.suffix in (".py", ".yaml"):
                text = path.read_text()
                yield from re.findall(r"\bdocs/[\w/-]+\.md", text)
                for heading, page in re.findall(r"\bsee (\w+)(?:,| in)(?: the)? (README|docs/[\w/-]+\.md)", text):
                    yield f"{'README.md' if page == 'README' else page}#{heading.lower()}"


def test_the_code_points_to_pages_and_headings_that_exist() -> None:
    found = set(pointers())
    assert "docs/backup.md#replay" in found, "else this would say nothing"
    for page, _, heading in (pointer.partition("#") for pointer in found):
        assert (ROOT / page).exists(), page
        assert not heading or heading in anchors(ROOT / page), f"{page}#{heading}"


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= MAX_README


@documents
def test_links_lead_somewhere(document: Path) -> None:
    assert broken(document) == []


@documents
def test_references_are_defined(document: Path) -> None:
    text = "\n".join(re.sub(r"`[^`]*`", "", line) for line in prose(document.read_text()))
    assert set(re.findall(r"\]\[([^]]+)\]", text)) <= set(re.findall(r"^\[([^]]+)\]: ", text, re.MULTILINE))


@documents
def test_lines_fit(document: Path) -> None:
    """But for tables, the state line, links that have no shorter form, and what is shown as it is printed or typed."""
    state = (controller.__doc__ or "").splitlines()[2]
    lines = [line for line in prose(document.read_text()) if not line.startswith("|") and line != state]
    assert [line for line in lines if len(line) > MAX_COLUMNS and not re.match(r"\[[^]]+\]: ", line)] == []


@pages
def test_every_page_is_on_the_map(page: Path) -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert page in (README, ROOT / "docs" / "README.md") or f"]({page.name}" in index


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    """Else the tests above would say nothing."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A `name`, twice\n## A name, twice\n[a](#a-name-twice) [b](#a-name-twice-1) [c](#none) [d](none.md)\n"
    )
    assert broken(page) == ["#none", "none.md"]
