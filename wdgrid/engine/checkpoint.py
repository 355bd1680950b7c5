"""Saves and loads checkpoints of a chunk: safetensors files with JSON in the header, of which the last two are kept.

A file is written completely or not at all, and its header holds a SHA-256 of its content. Instead of a damaged file the
previous one is used; if there is none, the chunk starts again.
"""

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

KEEP = 2
State = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoint:
    """The checkpoints of one chunk: `stem` is their path up to the epoch, `every` the seconds between two.

    `identity` names what is trained; a checkpoint with another identity is not used. `warn` is called with one line for
    each damaged file, and if no checkpoint can be written.
    """

    def __init__(self, stem: Path, identity: str, every: float, warn: Callable[[str], None] = warnings.warn) -> None:
        self.stem, self.identity, self.every, self.warn = stem, identity, every, warn
        self._last = time.monotonic()

    def due(self, least: float = 0.0) -> bool:
        """Whether the next checkpoint is due; `least` is the minimum number of seconds since the last one."""
        return time.monotonic() - self._last >= max(self.every, least)

    def save(self, epoch: int, state: State) -> bool:
        """Saves the state after `epoch` epochs and a part of the next. Returns whether that succeeded.

        Warns if it failed (because the disk is full, for example).
        """
        part = self._path(epoch).with_suffix(".part")
        try:
            self._write(part, epoch, state)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            why = (error.strerror if isinstance(error, OSError) else None) or error
            self.warn(f"{self.stem.parent}: checkpoints cannot be written ({why}); training goes on without them")
            return False
        finally:
            self._last = time.monotonic()
        return True

    def _write(self, part: Path, epoch: int, state: State) -> None:
        tensors = {name: t.detach().contiguous().cpu() for name, t in state[0].items()}
        header = {"identity": self.identity, "epoch": str(epoch), "plain": json.dumps(state[1])}
        header["sha256"] = _digest(tensors, header)
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, header)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(self._path(epoch))
        for old in self._files()[:-KEEP]:
            old.unlink(missing_ok=True)

    def load(self) -> tuple[int, State] | None:
        """The newest undamaged checkpoint of this chunk: (epochs done, state)."""
        for path in reversed(self._files()):
            try:
                header, tensors = _read(path)
            except (OSError, SafetensorError, ValueError) as error:
                self.warn(f"{path}: the checkpoint is damaged ({error}); training goes on from an earlier state")
                continue
            if header["identity"] == self.identity:
                return int(header["epoch"]), (tensors, json.loads(header["plain"]))
        return None

    def clear(self) -> None:
        """Removes the checkpoints, once the chunk's outcomes are stored."""
        for path in self.stem.parent.glob(f"{self.stem.name}-*"):
            with contextlib.suppress(OSError):  # the folder is no longer writable
                path.unlink(missing_ok=True)

    def _path(self, epoch: int) -> Path:
        return self.stem.with_name(f"{self.stem.name}-{epoch:06}.safetensors")

    def _files(self) -> list[Path]:
        return sorted(self.stem.parent.glob(f"{self.stem.name}-*.safetensors"), key=lambda path: (len(path.name), path))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a file. Raises OSError, SafetensorError or ValueError if it is damaged."""
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header.pop("sha256", None) != _digest(tensors, header):
        raise ValueError("its SHA-256 does not match")
    return header, tensors


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of the header and of every tensor's name, type, shape and bytes."""
    names = sorted(tensors)
    facts = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    sha = hashlib.sha256(json.dumps([sorted(header.items()), facts]).encode())
    for name in names:
        flat = tensors[name].flatten()
        if flat.numel() == 1:
            flat = flat.new_empty(1).copy_(flat)  # its stride may be 0
        sha.update(flat.view(torch.uint8).numpy().data)
    return sha.hexdigest()
