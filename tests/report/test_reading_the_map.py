"""docs/reading-the-map.md quotes what wdgrid says of its four maps, and has a picture of each."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_quotes_what_is_said_of_its_maps():
    spec = importlib.util.spec_from_file_location("reading_the_map", DOCS / "reading_the_map.py")
    maps = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maps)
    text = (DOCS / "reading-the-map.md").read_text(encoding="utf-8")
    quoted = " ".join(text.replace("\n> ", " ").split())
    for name, (verdict, *others) in maps.sentences().items():
        assert verdict in quoted, name
        assert all(alarm in quoted for alarm in others if alarm.startswith("the best cell"))
        assert f"reading-the-map-{name}.png" in text and (DOCS / f"reading-the-map-{name}.png").stat().st_size > 10_000
