"""Models too large for a device: weights, gradients and the optimiser's states divided among all devices.

PyTorch's `fully_shard` (Zhao et al., VLDB 2023, arXiv:2304.11277), which does what stage 3 of ZeRO does
(Rajbhandari et al., SC 2020, arXiv:1910.02054). A device keeps its share of every parameter, in the type that the
parameter has; layers are whole only while they compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method


class FullShard(ModelParallelStrategy):
    """Lightning's strategy for `fully_shard`, over all devices; a checkpoint is a file like any other.

    A task that is trained divides itself (`Task.configure_model`). In evaluation every device has all weights:
    devices whose answers differ in length would else wait for each other for ever.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """See `ModelParallelStrategy`; its own default divides nothing."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """See `ModelParallelStrategy`, which does not expect a task that is not divided."""
        loaded: dict[str, Any] = self._own().load_checkpoint(checkpoint_path, weights_only=weights_only)
        return loaded

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """See `ModelParallelStrategy`."""
        self._own().load_model_state_dict(checkpoint, strict=strict)

    def _own(self) -> Any:
        divided = isinstance(self.model, FSDPModule)
        return super() if divided else super(ModelParallelStrategy, self)


def shard(task: nn.Module, large: Iterable[nn.Module], mesh: Any) -> None:
    """Divide the parameters of a task among the processes of a mesh, in place.

    Args:
        task: what its layers leave over is whole for all of a training or validation step.
        large: parts whose layers are divided one by one; each must run once in every step of every process.
        mesh: of one dimension.
    """
    for part in large:
        for layer in _layers(part):
            fully_shard(layer, mesh=mesh)
    fully_shard(task, mesh=mesh)
    for step in ("training_step", "validation_step"):
        register_fsdp_forward_method(task, step)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists in a module."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from child.children()
        else:
            yield from _layers(child)
