"""Tables that follow from a configuration: buffers outside of the state dict, filled whenever they might not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class HoldsTables(nn.Module):
    """A module whose fixed tables keep their values wherever it is moved, and get them when weights come.

    No state dict has the tables, so that a model that is built on the meta device and filled from one (`to_empty` and
    `load_state_dict`, or `load_state_dict(assign=True)`, as is usual for sharded training) would compute with what the
    memory happens to hold.

    Attributes:
        make_tables: gives the tables by the names of their buffers.
    """

    make_tables: Callable[[], dict[str, Tensor]]
    # Whether tables were given memory since they were on the meta device, and no weights have been loaded since.
    _came_from_meta = False

    def add_tables(self) -> None:
        """Register the tables; for the constructor."""
        # On the meta device PyTorch would load half of its compiler for them.
        with torch.device("cpu"):
            tables = self.make_tables()
        for name, table in tables.items():
            self.register_buffer(name, table.to(torch.get_default_device()), persistent=False)
        self._table_names = tuple(tables)
        self.register_load_state_dict_post_hook(fill_after_loading)

    def fill_tables(self) -> None:
        """Make the tables anew in the memory they have; on the meta device they have none."""
        with torch.device("cpu"):
            made = self.make_tables()
        for name, table in made.items():
            buffer = self._buffers[name]
            if buffer is not None and not buffer.is_meta:
                buffer.copy_(table)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HoldsTables:
        """What moves a module, also to memory that is not initialised."""
        before = {name: self._buffers[name] for name in self._table_names}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is None or new is None or new is old or new.is_meta:
                continue
            if old.is_meta:
                self._came_from_meta = True
            else:
                new.copy_(old)
        if self._came_from_meta:
            self.fill_tables()
        return self


def fill_after_loading(module: HoldsTables, _: Any = None) -> None:
    """Fill tables that have been, or still are, on the meta device, and put them beside the weights."""
    home = next((parameter.device for parameter in module.parameters() if not parameter.is_meta), None)
    is_needed = module._came_from_meta
    for name in module._table_names:
        buffer = module._buffers[name]
        if buffer is not None and buffer.is_meta and home is not None:
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=home)
            is_needed = True
    if is_needed:
        module.fill_tables()
    module._came_from_meta = False
