"""What a CUDA graph does with a step, done on a CPU: its operations are recorded by address and run again as they were.

Whatever Python computed while recording (a rate, a step's number, a branch taken) is in the tape for good. What a
capture would refuse, waiting for the device or carrying a number to it, raises ForbiddenError.
"""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

TO_HOST = {"cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "is_nonzero"}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "lift_fresh", "scalar_tensor"}
# Their device is another tensor's: shake says so, and autocast where it converts.
FOLLOWS = {torch.ops.aten.rand.default, torch.ops.aten._to_copy.default}


class ForbiddenError(Exception):
    """A step did what a capture forbids."""


class _Python(TorchFunctionMode):
    """Calls that move nothing on a CPU, and would on a GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = (resolve_name(func) or "").rpartition(".")[2]
        elsewhere = name in ("to", "copy_") and any(isinstance(a, str | torch.device) for a in args[1:])
        if name in TO_HOST or elsewhere or func in (torch.tensor, torch.as_tensor):
            raise ForbiddenError(name)
        return func(*args, **(kwargs or {}))


class Tape(TorchDispatchMode):
    """Use as Resident's `record`: tape = Tape(); Resident(…, record=tape.record)."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.replays = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in WAITS or masks:
            raise ForbiddenError(name)
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def record(self, step):
        step()  # the warm-up
        with self, _Python():
            step()
        return self.replay

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for func, args, kwargs, out in self.operations:
            new = func(*args, **kwargs)
            for kept, value in zip(tensors(out), tensors(new), strict=True):
                if kept.untyped_storage().data_ptr() != value.untyped_storage().data_ptr():
                    kept.copy_(value)  # where the operations that follow will read it

    def on(self, device, known):
        """Runs the operations on tensors without numbers of a `device` that need not be there.

        Of the tensors that were there before the recording, those that share memory with one of `known` are on it, and
        others where they were: FakeTensorDeviceMismatchError where an operation takes some of each. Returns the devices
        of all results.
        """
        memory = {tensor.untyped_storage().data_ptr() for tensor in known}
        there, devices = {}, set()

        def moved(leaf):
            if not isinstance(leaf, torch.Tensor):
                return leaf
            if id(leaf) not in there:
                place = device if leaf.untyped_storage().data_ptr() in memory else leaf.device
                there[id(leaf)] = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=place)
            return there[id(leaf)]

        with torch.no_grad(), FakeTensorMode():
            for func, args, kwargs, out in self.operations:
                if func in FOLLOWS and "device" in kwargs:
                    kwargs = kwargs | {"device": device}
                new = func(*tree_map(moved, args), **tree_map(moved, kwargs))
                for kept, value in zip(tensors(out), tensors(new), strict=True):
                    assert kept.shape == value.shape, (func, kept.shape, value.shape)
                    there[id(kept)] = value
                    devices.add(value.device.type)
        return devices


def tensors(out):
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
