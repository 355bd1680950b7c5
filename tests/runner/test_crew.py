"""Workers and the cells that they hold: nobody's cells are lost, whatever ends a worker."""

from multiprocessing import Pipe

import pytest

from wdgrid.errors import MachineError
from wdgrid.runner.crew import MAX_DEATHS, Crew
from wdgrid.runner.handle import _Piped
from wdgrid.runner.messages import Epoch, Order
from wdgrid.study.sections import Cosine


class FakeWorker(_Piped):
    """A worker whose other end the test holds."""

    def __init__(self, environment):
        self.environment, self.asked, self.stopped = environment, False, False
        self.connection, self.theirs = Pipe()

    def ask_to_end(self):
        self.asked = True

    def stop(self):
        self.stopped = True
        self.connection.close()


@pytest.fixture
def released():
    return []


@pytest.fixture
def crew(released):
    with Crew(FakeWorker, released.extend) as crew:
        yield crew


def order(cells):
    return Order("sgd", Cosine(kind="cosine"), 4, False, cells, 3, None, "digest", 60.0)


def test_messages_come_with_their_worker(crew):
    for _ in range(3):
        crew.hire()
    crew.members[1].worker.theirs.send(Epoch(1))
    assert [(m is crew.members[1], message) for m, message in crew.messages(1)] == [(True, Epoch(1))]
    assert list(crew.messages(0)) == []


def test_an_order_reaches_its_worker_and_progress_counts_epochs(crew):
    crew.hire()
    (member,) = crew.members
    member.train(order(["a", "b"]), ["a", "b"])
    assert member.worker.theirs.recv().cells == ["a", "b"] and member.cells_done == 0
    member.epochs_done = 1
    assert member.cells_done == 2 / 4


def test_at_the_end_all_are_stopped_and_all_cells_are_put_back(released):
    with pytest.raises(KeyboardInterrupt), Crew(FakeWorker, released.extend) as crew:
        for cells in (["a"], [], ["b", "c"]):
            crew.hire()
            crew.members[-1].claims = cells
        raise KeyboardInterrupt
    assert released == ["a", "b", "c"] and all(member.worker.asked and member.worker.stopped for member in crew.members)


def test_a_dead_worker_is_replaced_and_its_cells_are_put_back(crew, released):
    crew.hire({"A": "1"})
    for death in range(1, MAX_DEATHS + 1):
        (member,) = crew.members
        member.claims = [death]
        member.worker.theirs.close()
        assert [message for _, message in crew.messages(1)] == [None]
        if death < MAX_DEATHS:
            crew.replace_dead(member)
    with pytest.raises(MachineError, match=f"{MAX_DEATHS} worker processes died"):
        crew.replace_dead(member)
    assert released == list(range(1, MAX_DEATHS + 1)) and crew.members == []


def test_a_dismissed_worker_is_gone(crew, released):
    crew.hire()
    crew.hire()
    first, second = crew.members
    first.claims = ["a"]
    crew.dismiss(first)
    assert crew.members == [second] and first.worker.stopped and not second.worker.stopped and released == ["a"]
