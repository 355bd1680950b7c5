"""docs/python.md and docs/notebook.ipynb run as they are written."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"
pytestmark = pytest.mark.slow


def test_every_block_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```python") == 7
    names = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"^adamw 0 \d+ of 48 cells$", printed, re.MULTILINE)
    assert "task.epochs = 0" in printed and len(names["results"].table()) == 48
    assert (tmp_path / "map.png").is_file() and (tmp_path / "reports/first/report.html").is_file()


def test_the_notebook_runs_and_shows_the_map(tmp_path):
    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # it is committed without
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    (page,) = [data["text/html"] for data in shown if "base64" in data.get("text/html", "")]
    assert "<b>adamw</b>" in page and "90 of 90 cells are finished" in page
    assert shown[-1]["text/plain"].startswith("AdamW")
