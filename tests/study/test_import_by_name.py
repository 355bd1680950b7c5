"""A user's own function: found by its module's name in the working directory, and nothing else is taken from there."""

import subprocess
import sys

import pytest

from wdgrid.errors import LoadingError, StudyFileError
from wdgrid.study import load_study
from wdgrid.study.import_by_name import load_object

SHADOWS = ("random", "struct", "pickle", "tempfile", "json", "multiprocessing", "torch", "wdgrid")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory; what is imported there is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_beside_the_study_is_found_with_what_it_imports(here):
    (here / "my_net.py").write_text("from my_parts import width\n\ndef net():\n    return width")
    (here / "my_parts.py").write_text("width = 3")
    (here / "my_package").mkdir()
    (here / "my_package" / "deep.py").write_text("def net():\n    return 4")
    assert load_object("my_net:net")() == 3 and load_object("my_package.deep:net")() == 4


def test_the_named_module_is_taken_before_an_installed_one(here):
    (here / "tape_archive.py").write_text("def net():\n    return 'mine'")
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "tape_archive.py").write_text("def net():\n    return 'installed'")
    sys.path.insert(0, str(here / "elsewhere"))
    assert load_object("tape_archive:net")() == "mine"


def test_a_module_with_the_name_of_one_of_pythons_own_is_refused(here):
    (here / "colorsys.py").write_text("def net():\n    return 1")
    with pytest.raises(LoadingError, match="Python has a module of its own called colorsys; rename"):
        load_object("colorsys:net")


def test_a_module_that_fails_is_not_half_loaded(here):
    (here / "fails_once.py").write_text("raise ImportError('no such thing')")
    for _ in range(2):
        with pytest.raises(LoadingError, match="no such thing"):
            load_object("fails_once:net")


def test_no_code_refuses_a_study_that_names_code(here):
    path = here / "s.toml"
    path.write_text("""
[task]
model = "my_net:net"
[axes.lr]
values = [1]
[axes.weight_decay]
values = [0]
[[panels]]
optimizer = "sgdw"
""")
    assert load_study(path).named_code() == ["task.model = my_net:net"]
    with pytest.raises(StudyFileError, match=r"task\.model = my_net:net: names code, which --no-code"):
        load_study(path, allow_code=False)
    assert load_study(path, ["task.model=mlp"], allow_code=False).named_code() == []


@pytest.mark.slow
def test_workers_take_no_module_of_python_from_the_working_directory(here):
    """A worker process in a folder full of files with the names of Python's own modules."""
    for name in SHADOWS:
        (here / f"{name}.py").write_text(f"open({str(here / 'loaded')!r}, 'a').write(__name__)\n")
    script = here / "elsewhere" / "start.py"
    script.parent.mkdir()
    script.write_text("""
from wdgrid.study.sections import Task
from wdgrid.runner.handle import ProcessWorker
from wdgrid.runner.messages import Ready

if __name__ == "__main__":
    worker = ProcessWorker(Task(model_args={"hidden": [4]}, device="cpu"), 1, 1)
    assert isinstance(worker.connection.recv(), Ready)
    worker.stop()
""")
    subprocess.run([sys.executable, script], check=True, cwd=here, timeout=300)
    assert not (here / "loaded").exists()
