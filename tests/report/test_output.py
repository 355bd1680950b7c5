"""Output folders: checked beforehand, written whole or not at all, swept up after a kill; faults in one line."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from wdgrid.errors import OutputError
from wdgrid.report.output import check_output, replaced, written

LONG = 300 * "x"


@pytest.fixture
def places(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    return {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "small",
        "a device": tmp_path.__class__("/dev/null/small"),
        "a long name": tmp_path / LONG,
        "a long name below": tmp_path / "new" / LONG / "small",
        "no folder of ours": tmp_path.__class__("/proc/reports"),
    }


@pytest.mark.parametrize(
    "which", ["a file", "below a file", "a device", "a long name", "a long name below", "no folder of ours"]
)
def test_a_place_that_cannot_be_written_is_told_in_one_line(places, tmp_path, which):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=r"cannot be written .* give another --out") as caught:
        check_output(places[which])
    assert str(caught.value).isprintable() and caught.value.exit_status == 1
    with pytest.raises(OutputError, match="cannot be written"), replaced(places[which]):
        pass
    with pytest.raises(OutputError, match="cannot be written"), written(places[which] / "t.csv"):
        (places[which] / "t.csv").write_text("")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "new"] == before


@pytest.mark.parametrize("place", ["there", "there/not/yet", "not/\udcff", "."])
def test_a_check_leaves_nothing(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    check_output(tmp_path / place)
    check_output(tmp_path.__class__(place))
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_full_disk_leaves_the_earlier_report(tmp_path):
    (tmp_path / "page.html").write_text("earlier")
    with pytest.raises(OutputError, match="No space left on device"), replaced(tmp_path) as fresh:
        (fresh / "page.html").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "earlier"


def test_what_a_killed_report_left_is_swept_up_and_a_living_one_is_not(tmp_path):
    code = f"""
import pathlib, sys, time
from wdgrid.report.output import replaced
with replaced(pathlib.Path({str(tmp_path)!r})) as folder:
    (folder / "half.html").write_text("half")
    print("ready", flush=True)
    time.sleep(1000)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    (half,) = tmp_path.glob(".writing-*")
    with replaced(tmp_path) as fresh:
        (fresh / "page.html").write_text("whole")
        assert half.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert half.exists()
    with replaced(tmp_path):
        assert not half.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
