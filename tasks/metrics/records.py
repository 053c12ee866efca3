"""Metrics on texts: records of all processes come together, one process evaluates, all get the result."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

Record = dict[str, Any]


class RecordMetric(Metric):
    """Base of metrics whose samples are records of text and numbers rather than tensors.

    Records travel between processes as JSON. A record that a distributed sampler repeated counts once (by its
    index), and the values do not depend on batch size, order or number of processes. Process 0 evaluates alone, so
    that an evaluation starts one scorer, and hands the result (or the error) to all.

    Attributes:
        absent: names of metrics that could not be computed, with the reason; filled by `evaluate`.
    """

    full_state_update = False
    lines: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.absent: dict[str, str] = {}
        self.add_state("lines", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """Values of all records, in the order of their index; runs in one process."""

    def update(self, index: Sequence[int], records: Sequence[Record]) -> None:
        """Add records.

        Args:
            index: a number of its own for every sample of the split.
            records: JSON-ready, one per index.
        """
        text = "".join(json.dumps([i, r]) + "\n" for i, r in zip(index, records, strict=True))
        self.lines.append(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Exchange records; a process without any takes part with nothing, or the others would wait for it."""
        if not len(self.lines):
            self.lines.append(torch.empty(0, dtype=torch.uint8, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """The values, float64, the same in all processes."""
        group = dist.is_available() and dist.is_initialized()
        result: list[Any] = [None]
        if not group or dist.get_rank() == 0:
            try:
                text = dim_zero_cat(self.lines).cpu().numpy().tobytes().decode() if len(self.lines) else ""
                known: dict[int, Record] = dict(map(json.loads, text.splitlines()))
                result = [(self.evaluate([known[i] for i in sorted(known)]), self.absent)]
            except Exception as error:  # the others wait for an answer
                if not group:
                    raise
                result = [error]
        if group:
            dist.broadcast_object_list(result, src=0)
        if isinstance(result[0], Exception):
            raise result[0]
        values, self.absent = result[0]
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
