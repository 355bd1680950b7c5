"""Checkpoints of a chunk in training: one safetensors file each, its JSON in the header, the last two kept.

A file appears whole or not at all, and one that cannot be read counts as absent: the one before it is used.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

KEEP = 2
State = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoint:
    """The checkpoints of one chunk: `stem` is their path up to the epoch, `every` the seconds between two.

    `identity` says what is trained; a checkpoint that says otherwise is not used.
    """

    def __init__(self, stem: Path, identity: str, every: float) -> None:
        self.stem, self.identity, self.every = stem, identity, every
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._last >= self.every

    def save(self, epoch: int, state: State) -> None:
        """Keeps the state after `epoch` epochs. Raises OSError where it cannot be written (a full disk)."""
        tensors, plain = state
        header = {"identity": self.identity, "epoch": str(epoch), "plain": json.dumps(plain)}
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        part = self._path(epoch).with_suffix(".part")
        save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, part, header)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(self._path(epoch))
        for old in self._files()[:-KEEP]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def load(self) -> tuple[int, State] | None:
        """The newest one that can be read and is of this chunk: (epochs done, state)."""
        for path in reversed(self._files()):
            with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError), safe_open(path, "pt") as file:
                header = file.metadata()
                if header["identity"] == self.identity:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                    return int(header["epoch"]), (tensors, json.loads(header["plain"]))
        return None

    def clear(self) -> None:
        """Removes them: what the chunk came to is stored."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _path(self, epoch: int) -> Path:
        return self.stem.with_name(f"{self.stem.name}-{epoch:06}.safetensors")

    def _files(self) -> list[Path]:
        return sorted(self.stem.parent.glob(f"{self.stem.name}-*.safetensors"))
