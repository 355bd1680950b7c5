"""Compares a study with the one stored under its name, and plans it anew, resumes it or refuses it.

Cells of one stored study must have one definition and be trained on the same data.
"""

from typing import Any

from wdgrid.errors import StudyFileError
from wdgrid.store import Store
from wdgrid.study import Study
from wdgrid.study.coarse import coarse_name
from wdgrid.study.file import differences, only_adds

CONTENT = "data"  # the study's attribute that holds the SHA-256 of the files its images came from, by part
Content = tuple[str, str] | None  # for training and test images; None if a program makes them


def panel_attrs(study: Study) -> dict[str, dict[str, Any]]:
    """The columns of the table that describe each panel."""
    return {
        name: {"optimizer": p.optimizer, "schedule": p.schedule.kind, "epochs": study.panel_epochs(p)}
        for name, p in study.panel_names().items()
    }


def plan(store: Store, name: str, study: Study) -> int:
    """Plans a study, or adds its missing cells to the stored one; returns how many were added."""
    cells, axes = study.cells(), (study.row, study.column)
    return store.create(name, cells, study.canonical(), study.digest(), {}, panel_attrs(study), axes)


def replace_or_refuse(store: Store, name: str, study: Study, extend: bool) -> bool:
    """Replaces the stored study if it differs and none of its cells was begun; returns whether it did.

    Its coarse pass is removed, too, and must not have been begun either. Raises StudyFileError, with one line for each
    difference, if the study differs and may not be replaced; with `extend`, differences that only add cells are
    allowed.
    """
    definition = store.definition(name)
    if definition is None or definition[1] == study.digest():
        return False
    stored = definition[0]
    adds = only_adds(stored, study)
    if extend and adds:
        return False
    store.reclaim()  # releases the claims of runs that died
    both = coarse_name(name), name
    if not any(map(store.begun, both)) and all(map(store.withdraw, both)):
        return True
    hint = "give --extend to add cells, or --name for a new study"
    if not adds:
        hint = "give --name for a new study (--extend can only add axis values, seeds and panels)"
    raise StudyFileError([f"{name}: {line}" for line in differences(stored, study)] + [f"{name}: {hint}"])


def keep_content(store: Store, name: str, study: Study, content: Content) -> None:
    """Stores the hashes of a study's image files, or raises StudyFileError if cells were trained on others.

    A study stored before wdgrid kept these hashes adopts those of the present images.
    """
    if content is None:
        return
    found = _by_part(content)
    kept = store.keep(name, CONTENT, found)
    if changed := [part for part in found if found[part] != kept[part]]:
        root = study.task.dataset_args.get("root")
        raise StudyFileError(
            [
                f"{name}: task.dataset_args.root = {root}: {' and '.join(changed)} images are not those that the "
                "stored cells were trained on; restore them, or give --name for a new study"
            ]
        )


def must_be_as_planned(store: Store, name: str, study: Study, content: Content) -> None:
    """Raises StudyFileError if another process changed the stored study or its images before cells were claimed.

    Call it while holding claims, because the study cannot change from then on.
    """
    definition = store.definition(name)
    same = definition is not None and (
        definition[1] == study.digest()
        or only_adds(study.canonical(), Study.model_validate_json(definition[0]))  # it was extended
    )
    if not same or (content and store.attrs(name).get(CONTENT) != _by_part(content)):
        raise StudyFileError([f"{name}: another process has changed the stored study; give the same command again"])


def _by_part(content: tuple[str, str]) -> dict[str, str]:
    return dict(zip(("training", "test"), content, strict=True))
