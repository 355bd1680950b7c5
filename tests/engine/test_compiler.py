"""Compiled code where there is a compiler, none, a broken one, and a folder that fails."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.compiled import needs_compiler
from wdgrid.engine import Workbench
from wdgrid.engine.native import compiler
from wdgrid.engine.native.backend import code
from wdgrid.study.sections import Task

COMPILED = "home/wdgrid/compiled"


@pytest.fixture
def afresh(monkeypatch, tmp_path):
    """Nothing has been compiled yet, and nothing stays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WDGRID_DATA", str(tmp_path / "data"))
    for function in (compiler.compiler, compiler.library):
        function.cache_clear()
    yield tmp_path
    for function in (compiler.compiler, compiler.library):
        function.cache_clear()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("why", ["none", "not there", "does not run", "compiles nothing", "no command"])
def test_without_a_compiler_perceptrons_take_torchs_way(afresh, monkeypatch, why):
    refuses = script(afresh / "refuses", 'test "$1" = --version && echo 1.0')
    made = {
        "none": "",
        "not there": "/nowhere/cc",
        "does not run": "false",
        "compiles nothing": refuses,
        "no command": 'cc "',
    }
    monkeypatch.setenv("CC", made[why])
    bench = Workbench(Task(model_args={"hidden": [8]}, batch_size=25, epochs=1, train_size=50, device="cpu"))
    bench.network(0, 1)
    assert bench.probe(1).backend == "stacked" and "no C compiler" in bench.probe(1).remark
    left = afresh / COMPILED
    assert not left.exists() or list(left.iterdir()) == []


@needs_compiler
def test_it_is_compiled_once_for_a_processor_and_a_compiler(afresh, monkeypatch):
    real = compiler.compiler()[0]
    log = afresh / "log"
    monkeypatch.setenv("CC", script(afresh / "cc", f'echo "$@" >> {log}\nexec {real} "$@"'))

    def calls():
        compiler.compiler.cache_clear()
        compiler.library.cache_clear()
        assert code(torch.float32) is not None
        lines = log.read_text().splitlines()
        log.unlink()
        return sum("--version" not in line for line in lines)

    assert calls() >= 1 and calls() == 0
    monkeypatch.setattr(compiler, "_processor", lambda: b"another")
    assert calls() >= 1
    assert len(list((afresh / COMPILED).glob("native-*.so"))) == 2


@needs_compiler
def test_a_home_that_cannot_be_written_to_is_done_without(afresh, monkeypatch):
    (afresh / "home").write_text("a file")
    assert code(torch.float32) is not None


@needs_compiler
@pytest.mark.parametrize("damage", ["torn", "empty", "no library", "one bit"])
def test_a_damaged_library_is_built_again(afresh, damage):
    assert code(torch.float32) is not None
    (kept,) = (afresh / COMPILED).iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # not in place: this process has it open
    bit = bytes([*whole[:-1], whole[-1] ^ 1])
    contents = {"torn": whole[: len(whole) // 2], "empty": b"", "no library": b"." * len(whole), "one bit": bit}
    kept.write_bytes(contents[damage])
    compiler.library.cache_clear()
    assert code(torch.float32) is not None
    (again,) = (afresh / COMPILED).iterdir()
    assert again.name == kept.name and again.read_bytes() == whole


@needs_compiler
def test_two_processes_may_compile_at_once(afresh):
    ask = "import torch; from wdgrid.engine.native.backend import code; print(code(torch.float64).lanes())"
    asked = [subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({process.communicate()[0] for process in asked}) == 1 and not any(p.returncode for p in asked)
    assert [path.suffix for path in (afresh / COMPILED).iterdir()] == [".so"]


@needs_compiler
def test_no_home_at_all_is_done_without(afresh, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiler, "cache_folder", nobody)
    assert code(torch.float32) is not None


@needs_compiler
def test_compiled_code_is_in_a_folder_of_this_user_alone(afresh):
    (afresh / "home" / "wdgrid").mkdir(parents=True)
    (afresh / COMPILED).mkdir(mode=0o755)
    assert code(torch.float32) is not None
    assert (afresh / COMPILED).stat().st_mode & 0o777 == 0o700
    assert not (afresh / "data").exists()


def loaded(monkeypatch):
    """Paths of the libraries that are loaded from now on."""
    paths, load = [], compiler.ctypes.CDLL
    monkeypatch.setattr(compiler.ctypes, "CDLL", lambda path: paths.append(Path(path)) or load(path))
    return paths


@needs_compiler
@pytest.mark.parametrize("whose", ["folder", "link", "file", "writable file"])
def test_what_another_user_can_write_is_never_loaded(afresh, monkeypatch, whose):
    """A shared cache folder, with a library in it that has the very name."""
    assert code(torch.float32) is not None
    (library,) = (afresh / COMPILED).iterdir()
    compiler.library.cache_clear()
    paths = loaded(monkeypatch)
    uid = os.getuid()
    if whose == "link":
        (afresh / COMPILED).rename(afresh / "elsewhere")
        (afresh / COMPILED).symlink_to(afresh / "elsewhere")
    elif whose == "writable file":
        library.chmod(0o777)
    else:
        place = afresh / COMPILED if whose == "folder" else library
        real = Path.lstat

        def owned_by_another(path):
            found = real(path)
            return os.stat_result([*found[:4], uid + 1, *found[5:]]) if path == place else found

        monkeypatch.setattr(Path, "lstat", owned_by_another)
    assert code(torch.float32) is not None and len(paths) == 1
    inside = paths[0].resolve().parent in ((afresh / COMPILED).resolve(), afresh / "elsewhere")
    assert inside == (whose in ("file", "writable file"))  # there it was built anew, elsewhere in a temporary folder


@pytest.mark.parametrize("how", ["at once", "when it compiles", "with a child"])
def test_a_compiler_that_hangs_is_given_up(afresh, monkeypatch, how):
    waits = {
        "at once": "exec sleep 1000",
        "when it compiles": 'test "$1" = --version && echo 1.0 || exec sleep 1000',
        "with a child": "sleep 1000 & wait",
    }
    monkeypatch.setenv("CC", script(afresh / "hangs", waits[how]))
    monkeypatch.setattr(compiler, "IDLE_S", 0.6)
    runs, run = [], subprocess.Popen
    monkeypatch.setattr(compiler.subprocess, "Popen", lambda *a, **k: runs.append(run(*a, **k)) or runs[-1])
    assert code(torch.float32) is None
    assert len(runs) == (2 if how == "when it compiles" else 1)  # given up once and for all
    deadline = time.monotonic() + 30
    while any(_group(process.pid) for process in runs) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_group(process.pid) for process in runs)


def _group(pid):
    """Living processes of a group."""
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [fields for fields in stats if int(fields[2]) == pid and fields[0] not in "ZX"]


def test_ten_seconds_without_any_work_are_a_hang():
    assert compiler.IDLE_S == 10
