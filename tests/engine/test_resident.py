"""Steps for a GPU, tested without one: run here, recorded and run again as a CUDA graph would be, against Stepwise."""

from dataclasses import asdict

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError, FakeTensorMode

from helpers.tape import ForbiddenError, Tape
from helpers.three_cells import DECAYS, ETAS, NETWORKS, STEPS, steps, trained
from wdgrid.engine import Job, Workbench, train
from wdgrid.engine.cuda import graph
from wdgrid.engine.cuda.resident import Resident
from wdgrid.engine.fused.layouts import innermost
from wdgrid.engine.steps import Stepwise
from wdgrid.optim.variants import VARIANTS
from wdgrid.study import Cell
from wdgrid.study.sections import Cosine, Task


def assert_same_bits(run, expected):
    (losses, left, moments), (losses_, left_, moments_) = run, expected
    torch.testing.assert_close(losses, losses_, rtol=0, atol=0, equal_nan=True)
    for own, other in zip(left, left_, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0, equal_nan=True)
    for own, other in zip(moments, moments_, strict=True):
        assert torch.equal(own[[0, 2]], other[[0, 2]])


@pytest.mark.parametrize("recorded", [False, True], ids=["as it is", "recorded"])
@pytest.mark.parametrize("optimizer", VARIANTS)
def test_steps_on_the_device_are_stepwise_to_the_bit(optimizer, recorded):
    tape = Tape()
    losses, left, moments = trained(*steps(Resident, "mlp", optimizer, record=tape.record if recorded else None))
    assert_same_bits((losses, left, moments), trained(*steps(Stepwise, "mlp", optimizer)))
    assert tape.replays == (STEPS if recorded else 0)
    finite = losses.isfinite()
    assert finite.tolist() == [[True, step != 2, True] for step in range(STEPS)]  # frozen then: the loss of zeros
    assert all(moment.isfinite().all() for moment in moments)
    assert not left[0][1].any() and left[0][0].any() and left[0][2].any()


@pytest.mark.parametrize(("name", "products"), [*((name, None) for name in NETWORKS), ("resnet", torch.bfloat16)])
def test_a_recorded_step_of_every_network_is_the_step(name, products):
    """With its noise anew in each, in single precision; and none of its operations reaches for another device."""
    tape = Tape()
    run, batches = steps(Resident, name, "adamw", torch.float32, products, record=tape.record)
    assert_same_bits(trained(run, batches), trained(*steps(Stepwise, name, "adamw", torch.float32, products)))
    assert tape.on("cuda", resident(run)) == {"cuda"}


def resident(run):
    """All tensors of a step that are on the device."""
    network = run.network
    own = [tensor for tensor in vars(run).values() if isinstance(tensor, torch.Tensor)]
    return [network.theta, network.gradient, *network.buffers.values(), *run.rule.state, *own]


class Baked(Resident):
    """Takes the rate from Python, as Stepwise does."""

    done = 0

    def _step_here(self):
        now = self.rule.coefficients(ETAS[self.done], self.done + 1)
        for own, vector in zip(self._now, now.values(), strict=True):
            own.copy_(vector[:, None])
        super()._step_here()

    def train(self, batches, first, count):
        losses = []
        for i in range(count):
            self.done = first + i
            losses.append(super().train(lambda _, i=i: batches(i), first + i, 1))
        return torch.cat(losses)


def test_a_number_of_the_step_in_a_recording_shows():
    """The recording is a test that can fail: the same steps agree as they are and differ recorded."""
    expected, *_ = trained(*steps(Stepwise))
    plain, *_ = trained(*steps(Baked))
    baked, *_ = trained(*steps(Baked, record=Tape().record))
    torch.testing.assert_close(plain[:, 2], expected[:, 2], rtol=0, atol=0)
    assert not torch.allclose(baked[:, 2], expected[:, 2])


def test_waiting_for_the_device_in_a_recording_shows():
    run, batches = steps(Stepwise)
    run.train(batches, 0, 1)
    with pytest.raises(ForbiddenError, match="cpu"):
        Tape().record(lambda: run._step(*batches(0), 0, 0))


def test_a_tensor_left_on_the_host_in_a_recording_shows():
    tape = Tape()
    run, batches = steps(Resident)
    run._record = lambda step: tape.record(lambda: (step(), run.network.theta.mul_(run.rule.hyper["lr"][:, None])))
    run.train(batches, 0, 1)
    with pytest.raises(FakeTensorDeviceMismatchError):
        tape.on("cuda", resident(run))


def test_being_recorded_leaves_no_trace():
    plain, batches = steps(Resident, "resnet")
    recorded, _ = steps(Resident, "resnet", record=lambda step: [step() for _ in range(3)] and None)
    assert_same_bits(trained(recorded, batches), trained(plain, batches))


def test_a_step_that_cannot_be_recorded_ends_the_worker_and_may_be_switched_off(monkeypatch):
    """What a device is in after a recording that failed is not known; who starts again records nothing."""
    tried = []

    def refuse(step, side, current):
        tried.append(side)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graph, "_recorded", refuse)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the current stream")
    monkeypatch.setattr(torch.cuda, "Stream", object)
    graphs = graph.Graphs()
    for _ in range(2):
        run, batches = steps(Resident, record=graphs)
        with pytest.raises(graph.CaptureError, match="operation not permitted when stream is capturing"):
            run.train(batches, 0, 1)
    assert len(tried) == 2 and tried[0] is tried[1]  # one side stream for all chunks
    monkeypatch.setenv(graph.OFF, "off")
    assert_same_bits(trained(*steps(Resident, record=graphs)), trained(*steps(Stepwise)))
    assert len(tried) == 2
    monkeypatch.delenv(graph.OFF)

    def no_memory(step, side, current):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def no_memory_while_recording(step, side, current):
        try:
            no_memory(step, side, current)
        finally:
            raise RuntimeError("the recording was not ended")

    for fault in (no_memory, no_memory_while_recording):
        monkeypatch.setattr(graph, "_recorded", fault)
        run, batches = steps(Resident, record=graph.Graphs())
        with pytest.raises(torch.OutOfMemoryError):
            run.train(batches, 0, 1)


def numbers(outcomes):
    return repr([{k: v for k, v in asdict(o).items() if k != "seconds"} for o in outcomes])


def test_a_whole_chunk_on_the_device_comes_to_the_same(monkeypatch):
    """Curves, classes and steps of divergence: all that is stored."""
    task = Task(model_args={"hidden": [12]}, batch_size=25, epochs=3, train_size=110, precision="float64", device="cpu")
    bench, extra = Workbench(task), VARIANTS["sgdw"].defaults
    pairs = [(0.1, 0.01), (1e300, 1e200), (0.2, 0.0)]
    cells = [Cell("p", 3, {"lr": lr, "weight_decay": wd, **extra}, (str(lr), str(wd))) for lr, wd in pairs]
    job = Job("sgdw", Cosine(), 3, True)
    monkeypatch.setattr(Workbench, "steps", lambda bench, *given: Stepwise(*given))
    expected = train(bench, job, cells, 4, lambda done: None)
    monkeypatch.setattr(Workbench, "steps", lambda bench, *given: Resident(*given, Tape().record))
    assert numbers(train(bench, job, cells, 4, lambda done: None)) == numbers(expected)
    assert expected[1].diverged_at is not None


def test_steps_on_a_gpu_stay_there_and_a_users_own_code_is_not_recorded():
    bench = Workbench(Task(train_size=100, device="cpu"))
    bench.device = torch.device("cuda")  # as far as the choice of steps goes
    run, _ = steps(Resident)
    given = run.network, run.rule, ETAS, DECAYS, 7
    assert bench.steps(*given)._record is bench.graphs
    run.network.kind = run.network.kind._replace(backend="vmap")
    own = bench.steps(*given)
    assert type(own) is Resident and own._record is None


@pytest.mark.parametrize("short", [False, True], ids=["float32", "bfloat16"])
def test_maps_on_a_gpu_have_channels_innermost_where_products_are_in_bfloat16(short, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: short and device == "cuda")
    with FakeTensorMode():
        for channels in (1, 6):
            x = innermost(torch.empty(4, channels, 5, 5, device="cuda"))
            assert (x.stride(1) == 1) == short and x.device.type == "cuda"
