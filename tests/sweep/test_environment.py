"""What a result depends on beside its study."""

from wdgrid.sweep import environment


def test_a_change_is_told_once_and_all_are_kept():
    first = {"device": "cpu (A)", "torch": "2.1", "form": "native", "workers": 2}
    second = first | {"form": "stacked"}
    assert environment.changes({}, first) == "" and environment.changes(first, first) == ""
    kept = first | environment.of_both({}, first)
    assert kept == first
    assert environment.changes(kept, second) == "form: native, then stacked"
    kept |= environment.of_both(kept, second)
    assert kept["form"] == "native, then stacked"
    for again in (first, second):
        assert environment.changes(kept, again) == "" and environment.of_both(kept, again)["form"] == kept["form"]
    third = second | {"device": "cpu (B)"}
    assert environment.changes(kept, third) == "device: cpu (A), then cpu (B)"
