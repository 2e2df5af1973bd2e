"""Contract of CITATION.cff: the fields that its format (1.2.0) requires are there and of their kinds, no other ones,
and it names the version and the licence of the package."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import yaml

import lposekit
from tests.support.fixtures import REPOSITORY

# https://github.com/citation-file-format/citation-file-format, the schema guide of 1.2.0
TOP = {
    *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
    *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
    *("repository-code", "title", "type", "url", "version"),
}
PERSON = {"affiliation", "alias", "email", "family-names", "given-names", "name-particle", "name-suffix", "orcid"}
ENTITY = {"name", "address", "city", "country", "date-end", "date-start", "email", "location", "orcid", "website"}
REFERENCE = {
    *("abbreviation", "abstract", "authors", "collection-title", "conference", "date-published", "doi", "editors"),
    *("end", "identifiers", "issue", "journal", "license", "notes", "number", "pages", "publisher", "start", "status"),
    *("title", "type", "url", "volume", "year"),
}
IDENTIFIERS = {"doi", "url", "swh", "other"}


def check_authors(authors: Any) -> None:
    assert isinstance(authors, list)
    assert authors
    for author in authors:
        assert author.keys() <= PERSON or author.keys() <= ENTITY, author
        assert "family-names" in author or "name" in author, author
        assert all(isinstance(value, str) and value for value in author.values())


def check_identifiers(identifiers: Any) -> None:
    for each in identifiers:
        assert each.keys() <= {"type", "value", "description"}
        assert each["type"] in IDENTIFIERS
        assert isinstance(each["value"], str)


def test_the_citation_file_is_valid_and_fits_the_package() -> None:
    # Mutations tried: `author:` for `authors:`; version 0.0.9; a reference without a type.
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"authors", "cff-version", "message", "title"} <= citation.keys() <= TOP
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert str(citation["version"]) == project["version"] == lposekit.__version__
    assert citation["license"] == project["license"]
    assert "date-released" not in citation or re.fullmatch(r"\d{4}-\d\d-\d\d", str(citation["date-released"]))
    check_authors(citation["authors"])
    check_identifiers(citation.get("identifiers", ()))
    for reference in citation.get("references", ()):
        assert {"authors", "title", "type"} <= reference.keys() <= REFERENCE
        check_authors(reference["authors"])
        check_identifiers(reference.get("identifiers", ()))
        assert isinstance(reference.get("year", 2024), int)
        assert reference.get("conference", {}).keys() <= ENTITY
