"""`wdgrid check`: tries a study's network and data before anything is planned."""

from dataclasses import asdict
from typing import Annotated

import typer

from wdgrid.cli.common import AsJson, NoCode, Quiet, StudyWord, echo, print_json, say


def check(
    study_word: StudyWord,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a field, such as task.epochs=5. May be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    no_code: NoCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Try a study's network and data: a minibatch forward and backward, and a test pass; nothing is planned or stored.

    Prints inputs, outputs, parameters, classes, backend, cells at a time and seconds a cell. Exit status 2, with a line
    a fault in your own file, where it cannot be trained. Every sweep does the same before it plans a cell.

    A study file that names code as package.module:function runs it.
    """
    from wdgrid.cli.progress import show_preparing
    from wdgrid.runner.check import check as check_study
    from wdgrid.runner.check import check_code
    from wdgrid.study import load_study
    from wdgrid.study.bundled import study_path

    path = study_path(study_word)
    study = load_study(path, override or [], allow_code=not no_code)
    check_code(study)
    with show_preparing() as tell:
        found = check_study(study, tell)
    if as_json:
        print_json({"study": path.stem, **asdict(found)})
        return
    if not quiet:
        echo(f"{path.stem}: {found}")
    for remark in found.remarks:
        say(remark, quiet)
