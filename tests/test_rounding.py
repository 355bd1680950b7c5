"""What a result depends on beside its study."""

from wdgrid import rounding


def test_a_change_is_told_once_and_all_are_kept():
    first = {"device": "cpu (A)", "torch": "2.1", "form": "native", "workers": 2}
    second = first | {"form": "stacked"}
    assert rounding.changes({}, first) == "" and rounding.changes(first, first) == ""
    kept = first | rounding.of_both({}, first)
    assert kept == first
    assert rounding.changes(kept, second) == "form: native, then stacked"
    kept |= rounding.of_both(kept, second)
    assert kept["form"] == "native, then stacked"
    for again in (first, second):
        assert rounding.changes(kept, again) == "" and rounding.of_both(kept, again)["form"] == kept["form"]
    third = second | {"device": "cpu (B)"}
    assert rounding.changes(kept, third) == "device: cpu (A), then cpu (B)"
