"""Compiled code where there is a compiler, none, a broken one, and a folder that fails."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.compiled import needs_compiler
from wdgrid.engine import Workbench
from wdgrid.engine.native import compiler
from wdgrid.engine.native.backend import code
from wdgrid.study.sections import Task


@pytest.fixture
def afresh(monkeypatch, tmp_path):
    """Nothing has been compiled yet, and nothing stays."""
    monkeypatch.setenv("WDGRID_DATA", str(tmp_path / "home"))
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
    left = afresh / "home" / "compiled"
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
    assert len(list((afresh / "home" / "compiled").glob("native-*.so"))) == 2


@needs_compiler
def test_a_home_that_cannot_be_written_to_is_done_without(afresh, monkeypatch):
    (afresh / "home").write_text("a file")
    assert code(torch.float32) is not None


@needs_compiler
@pytest.mark.parametrize("damage", ["torn", "empty", "no library"])
def test_a_damaged_library_is_built_again(afresh, damage):
    assert code(torch.float32) is not None
    (kept,) = (afresh / "home" / "compiled").iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # not in place: this process has it open
    kept.write_bytes({"torn": whole[: len(whole) // 2], "empty": b"", "no library": b"." * len(whole)}[damage])
    compiler.library.cache_clear()
    assert code(torch.float32) is not None
    (again,) = (afresh / "home" / "compiled").iterdir()
    assert again.stat().st_size == len(whole)


@needs_compiler
def test_two_processes_may_compile_at_once(afresh):
    ask = "import torch; from wdgrid.engine.native.backend import code; print(code(torch.float64).lanes())"
    asked = [subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({process.communicate()[0] for process in asked}) == 1 and not any(p.returncode for p in asked)
    assert [path.suffix for path in (afresh / "home" / "compiled").iterdir()] == [".so"]


@needs_compiler
def test_no_home_at_all_is_done_without(afresh, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiler, "home", nobody)
    assert code(torch.float32) is not None
