"""What a result depends on beside its study."""

from wdgrid.runner import environment


def test_a_change_is_told_once_and_all_are_kept():
    first = {"device": "cpu (A)", "torch": "2.1", "backend": "native", "mkl_mode": "default", "workers": 2}
    first["products"] = "oneDNN"
    second = first | {"backend": "stacked"}
    assert environment.changes({}, first) == "" and environment.changes(first, first) == ""
    kept = first | environment.merged({}, first)
    assert kept == first
    assert environment.changes(kept, second) == "backend: native, then stacked"
    kept |= environment.merged(kept, second)
    assert kept["backend"] == "native, then stacked"
    for again in (first, second):
        assert environment.changes(kept, again) == "" and environment.merged(kept, again)["backend"] == kept["backend"]
    third = second | {"device": "cpu (B)"}
    assert environment.changes(kept, third) == "device: cpu (A), then cpu (B)"


def test_an_environment_stored_by_an_earlier_version_is_understood():
    kept = {"environment": {"device": "cpu (A)", "torch": "2.1", "form": "native", "workers": 2}}
    earlier = environment.stored_environment(kept)
    assert earlier == {"device": "cpu (A)", "torch": "2.1", "backend": "native", "workers": 2}
    now = {"device": "cpu (A)", "torch": "2.1", "backend": "stacked", "mkl_mode": "default", "products": "oneDNN"}
    assert environment.changes(earlier, now) == "backend: native, then stacked"
    assert environment.merged(earlier, now)["backend"] == "native, then stacked"
    assert environment.stored_environment({}) == {}
