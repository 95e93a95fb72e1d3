"""The HTML page: whole, self-contained, with a plot for everything that was swept."""

import re
from dataclasses import replace

from click.testing import CliRunner

from edgetext.cli import group
from edgetext_bench.page import html_page


def test_the_page_needs_no_other_file(record):
    page = html_page([record, replace(record, label="limited", on="limited:cores=1")])
    assert page.count("<svg") == page.count("</svg>") >= 2 * 4
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "http" not in re.sub(r'xmlns(?::xlink)?="[^"]*"|http://www.w3.org\S*', "", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    for text in ("Time to first token", "Batches", "limited · ", "<td class=text>int8.etx × 1</td>"):
        assert text in page


def test_names_are_escaped(record):
    bundles = tuple(replace(bundle, file="<b>&.etx") for bundle in record.bundles)
    page = html_page([replace(record, bundles=bundles, command="bench <b>&.etx")])
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;.etx" in page


def test_the_command_shows_records(record, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(record.to_json())
    words = ["bench", "report", str(path), "-o", str(tmp_path / "a.md"), "--html", str(tmp_path / "a.html")]
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.md").read_text().strip() == result.stdout.strip()
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert "--force" in CliRunner().invoke(group, words).stderr
