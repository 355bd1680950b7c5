"""The API against its own description, by schemathesis: whatever is sent, no answer is a server error."""

from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as examples

from wdgrid.serve import jobs
from wdgrid.serve.app import make_app
from wdgrid.serve.jobs import Ended

pytestmark = pytest.mark.slow
STREAMS = ("/api/events", "/api/studies/{name}/events")  # which do not end


@pytest.fixture
def operations(settings, monkeypatch):
    """What the description has, without streams; commands in processes of their own do not run."""

    async def refused(_words, _timeout):
        return Ended(2, b"", "wdgrid: not in this test")

    monkeypatch.setattr(jobs, "_run", refused)
    app = make_app(replace(settings, reads_per_second=1e6, writes_per_second=1e6))
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers={"host": "localhost"})
    found = [one.ok() for one in schema.get_all_operations()]
    return [one for one in found if one.path not in STREAMS]


def test_no_request_is_answered_with_a_server_error(operations):
    seen = set()
    for operation in operations:

        @examples(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def one(case):
            answer = case.call(headers={"host": "localhost"})
            assert answer.status_code < 500, (case.method, case.path, case.body, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"][0] == "application/problem+json"
            seen.add((case.path, answer.status_code // 100))

        one()
    assert {path for path, _ in seen} == {operation.path for operation in operations}
    assert ("/api/validate", 2) in seen and ("/api/studies", 2) in seen and ("/api/queue", 4) in seen
