"""docs/tutorial.md: its files are those in docs/tutorial/, and its commands run as they are written."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "tutorial.md").read_text()


def test_the_pages_files_are_the_files():
    blocks = re.findall(r"```(python|toml)\n(.*?)```", TEXT, re.DOTALL)
    assert blocks == [
        ("python", (DOCS / "tutorial" / "spirals.py").read_text()),
        ("toml", (DOCS / "tutorial" / "spirals.toml").read_text()),
    ]


@pytest.mark.slow
def test_the_pages_commands_run_as_written(tmp_path):
    here = shutil.copytree(DOCS / "tutorial", tmp_path / "tutorial")
    commands = re.findall(r"^    wdgrid (.+)$", TEXT, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["check", "plan", "sweep", "show"]
    program = "import sys; from wdgrid.cli import main; sys.exit(main())"
    for command in commands:
        ended = subprocess.run(
            [sys.executable, "-c", program, *shlex.split(command)],
            cwd=here, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
    assert "torch.optim.AdamW(" in ended.stdout and re.search("separable|coupled|can't tell", ended.stdout)
    assert (here / "reports" / "spirals" / "report.html").is_file()
