"""Copies a chunk's checkpoints to the driver's machine, from which another node can continue."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from wdgrid.runner.messages import Order

KEEP = 2  # as a worker does, in case the last one is damaged


class Mirror:
    """The checkpoints of an order's chunk, in the order's folder."""

    def __init__(self, order: Order) -> None:
        self._folder, self._stem = order.checkpoints, order.stem

    def files(self) -> dict[str, bytes]:
        """The content of each file, by name."""
        files: dict[str, bytes] = {}
        for path in self._paths():
            with contextlib.suppress(OSError):  # another sweep has finished the chunk
                files[path.name] = path.read_bytes()
        return files

    def keep(self, files: Mapping[str, bytes]) -> str | None:
        """Writes files, each completely or not at all; returns the fault if that fails."""
        try:
            for name, content in files.items():
                self._folder.mkdir(parents=True, exist_ok=True)
                part = self._folder / f"{name}.part"
                part.write_bytes(content)
                part.replace(self._folder / name)
            for old in self._paths()[:-KEEP] if files else ():
                old.unlink(missing_ok=True)
        except OSError as error:
            why = error.strerror or error
            return f"{self._folder}: checkpoints cannot be written ({why}); training goes on without them"
        return None

    def clear(self) -> None:
        """Removes the checkpoints."""
        for path in self._paths():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        paths = self._folder.glob(f"{self._stem}-*.safetensors")
        return sorted(paths, key=lambda path: (len(path.name), path))
