"""Holds what all chunks of a task share: the data on the device and the network's backend."""

import copy
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wdgrid import data as datasets
from wdgrid import models
from wdgrid.data import Dataset
from wdgrid.engine import divergence, memory
from wdgrid.engine.cuda.graph import Graphs
from wdgrid.engine.cuda.resident import Resident
from wdgrid.engine.fused.network import BACKENDS, Backend, FusedNetwork, Kind, kind_of, nodes_without_rule, slower_kind
from wdgrid.engine.fused.verification import same_bits_in_all_slots
from wdgrid.engine.native.backend import Chain, Native, code
from wdgrid.engine.native.matcher import MOST_PARAMETERS, chain, computed
from wdgrid.engine.steps import Stepwise
from wdgrid.engine.trial import tried
from wdgrid.models.adapted import adapted
from wdgrid.models.decay import multipliers
from wdgrid.optim.fused import Rule
from wdgrid.study.sections import Task


@dataclass(frozen=True)
class Probe:
    """How K cells of a task's network are computed; the result of trials.

    `chain` are the layers for compiled code, if it is used; `decay_multipliers` are by parameter; `fallback` names the
    nodes of a stacked network that run cell by cell; `remark` is for the user. `slots_differ`: with a faster backend,
    equal cells did not end in equal bits in all slots. `seconds` is roughly the time of one training pass and one test
    pass, if a chunk's slots were compared.
    """

    kind: Kind
    chain: Chain | None
    decay_multipliers: Mapping[str, float]
    fallback: tuple[str, ...]
    remark: str | None
    slots_compared: bool = False
    slots_differ: bool = False
    seconds: float | None = None

    @property
    def backend(self) -> str:
        """The backend."""
        return "native" if self.chain else self.kind.backend

    @property
    def slots(self) -> str:
        """The result of the comparison of a chunk's slots, for the environment."""
        if self.slots_differ:
            return "equal cells differed by slot with a faster backend"
        return "equal cells are equal in all slots" if self.slots_compared else "one cell does not see another"


class Workbench:
    """What all chunks of a task share: the data on the device and the network's backend.

    Raises DataError or ModelError, naming the user's file and line, if data or network cannot be trained.

    `backend` computes the network if it can; None: the fastest by rule.
    """

    def __init__(self, task: Task, tell: datasets.Tell = datasets.silent, backend: str | None = None) -> None:
        self.task, self._backend = task, backend
        self.device = torch.device(_device(task.device))
        self.dtype = torch.float64 if task.precision == "float64" else torch.float32
        self.products = torch.bfloat16 if task.precision == "bfloat16" else None
        if task.precision == "tf32" and self.device.type != "cuda":
            raise RuntimeError("task.precision = tf32 is a format of NVIDIA GPUs, and the device is the CPU")
        _tf32(allowed=False)
        torch.backends.cudnn.deterministic = True  # a chunk resumed from a checkpoint ends with the same bits
        self.graphs = Graphs()
        self.data: Dataset = datasets.load(task, self.device, self.dtype, tell)
        self.steps_per_epoch = datasets.steps_per_epoch(self.data, task.batch_size)
        self.chance = divergence.chance(self.data.train_y.cpu(), self.data.test_y.cpu())
        self._probes: dict[int, Probe] = {}
        self.outputs = self._outputs()

    @property
    def batch(self) -> int:
        """Number of images in a minibatch."""
        return min(self.task.batch_size, len(self.data.train_x))

    def probe(self, cells: int) -> Probe:
        """How K cells are computed; tried at the first call for each K. A slower backend is then used for all later K.

        Raises ModelError if the network cannot be built, or if a pattern of the task's decay multipliers matches no
        parameter.
        """
        if cells not in self._probes:
            _tf32(allowed=False)  # its precision is too low for the comparison of backends
            earlier = list(self._probes.values())
            self._probes[cells] = self._compared(earlier[-1] if earlier else self._tried(), cells)
        return self._probes[cells]

    def computing(self, backend: str) -> "Workbench":
        """A workbench with the same data that computes its network in another backend, if possible."""
        other = copy.copy(self)
        other._backend, other._probes = backend, {}
        return other

    def network(self, seed: int, cells: int) -> FusedNetwork:
        """K copies of the task's network, all initialised by the seed; raises what `probe` raises."""
        kind = self.probe(cells).kind
        _tf32(allowed=self.task.precision == "tf32")
        return FusedNetwork(self.module(seed), cells, self._images(), kind, self.products)

    def _images(self) -> Tensor:
        return self.data.prepared(self.data.train_x[:8])

    def module(self, seed: int) -> nn.Module:
        """The task's network, ready for the engine: x [B, …] → logits [B, C]."""
        return adapted(self._built(seed), integers=self.data.integers, output=self.task.output)

    def _built(self, seed: int) -> nn.Module:
        return models.build(self.task, self._images().shape[1:], self.data.classes, seed)

    def _outputs(self) -> int:
        """Number of outputs of the task's network, found on a minibatch. Raises ModelError if that fails."""
        at = slice(None, self.batch)
        batch, test = self.data.prepared(self.data.train_x[at]), self.data.prepared(self.data.test_x[at])
        return tried(self.task, self._built(seed=0), (batch, self.data.train_y[at]), test, self.data)

    def _tried(self) -> Probe:
        """The fastest backend that computes the same as the network itself, for any K."""
        module, x = self.module(seed=0), self._images()
        decays = multipliers(module, self.task.decay_multipliers)
        wanted: Backend | None = next((name for name in BACKENDS if name == self._backend), None)
        network = FusedNetwork(module, 1, x, wanted and kind_of(module, x, wanted), self.products)
        fallback = nodes_without_rule(network, x)
        layers = remark = None
        if network.backend == "stacked" and not wanted and not network.kind.random and not self.products:
            most = math.inf if self._backend == "native" else MOST_PARAMETERS
            layers = chain(module, x, self.data.classes, most)
        if layers and code(x.dtype) is None:
            layers, remark = None, "no C compiler that works: PyTorch trains the network, about three times as slowly"
        elif layers and not computed(layers, module, x, self.data.train_y[:8]):
            layers = None
        return Probe(network.kind, layers, decays, fallback, remark)

    def _compared(self, probe: Probe, cells: int) -> Probe:
        """A probe with the fastest backend in which K equal cells end a step with equal bits."""
        if cells == 1 or probe.chain:
            return probe
        module, kind = self.module(seed=0).to(self._images()), probe.kind
        batch, y = self.data.prepared(self.data.train_x[: self.batch]), self.data.train_y[: self.batch]
        seconds = None
        while kind.backend != BACKENDS[-1]:  # the last one computes each cell separately
            network, began = FusedNetwork(module, cells, batch, kind, self.products), time.perf_counter()
            same = same_bits_in_all_slots(network, batch, y)
            seconds = time.perf_counter() - began
            if same:
                break
            kind = slower_kind(module, self._images(), kind)
        differ = probe.slots_differ or kind != probe.kind
        return replace(probe, kind=kind, slots_compared=True, slots_differ=differ, seconds=seconds)

    def steps(
        self, network: FusedNetwork, rule: Rule, etas: Sequence[float], decays: Sequence[float], seed: int
    ) -> Stepwise | Native:
        """The steps that train the cells of `network` by `rule`, with η_t and the multiplier of λ for each step."""
        given = network, rule, etas, decays, seed
        if self.device.type == "cuda":  # a user's own code is not recorded, because it may compute in Python
            return Resident(*given, self.graphs if network.backend == "stacked" else None)
        layers = self.probe(network.cells).chain
        if layers is None:
            return Stepwise(*given)
        return Native(layers, network, rule, etas, decays, self.batch)


def unused_gpu(device: torch.device) -> str | None:
    """A line for the user if an NVIDIA driver is installed but torch cannot use it, so that the CPU trains."""
    driver = memory.ROOT / "proc/driver/nvidia/version"
    if device.type != "cpu" or torch.cuda.is_available() or torch.version.cuda is None or not driver.is_file():
        return None
    words = re.search(r"Kernel Module\D*([\d.]+)", driver.read_text(encoding="utf-8", errors="replace"))
    version = f" {words[1]}" if words else ""
    return (
        f"the CPU trains: torch {torch.__version__} sees no GPU, though the NVIDIA driver{version} is installed; "
        f"it may be too old for CUDA {torch.version.cuda}: update it, or install a torch for an older CUDA"
    )


def one_thread() -> None:
    """Sets a worker process to one thread, and to flush denormal numbers to zero."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("task.device = cuda, but torch sees no CUDA device")
    return wanted


def _tf32(*, allowed: bool) -> None:
    """Sets whether a GPU may compute float32 products from shorter numbers."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
