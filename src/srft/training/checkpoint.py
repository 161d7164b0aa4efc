"""What lies beside a checkpoint, in its `state_folder`: the state that a resumed run continues from. Plain values are
in a JSON file, tensors in safetensors files, one from each process, which any number of processes reads. Nothing is
pickled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from srft.data.files import parse_json, read_text, write_json
from srft.errors import SrftError
from srft.training.checkpoint_files import state_folder

FILE = "state.json"
SHARDS = "tensors"
VERL = "verl"  # the folder that verl's workers write their shards to, of a run on that engine


def save_state(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Write the loop's plain values beside a checkpoint."""
    write_json(state_folder(checkpoint) / FILE, dict(state))


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The loop's plain values saved beside a checkpoint.

    Raises:
        SrftError: they are not there, or malformed.
    """
    file = state_folder(checkpoint) / FILE
    if not file.is_file():
        raise SrftError(
            f"the state of the trainer at {checkpoint.name} is not there",
            where=str(file),
            fix=f"Start a new run from its weights: model.path={checkpoint}.",
        )
    return dict(parse_json(read_text(file), str(file)))


def save_tensors(checkpoint: Path, tensors: Mapping[str, Tensor], *, alone: bool = False) -> None:
    """Write tensors beside a checkpoint; every process takes part and writes what it holds of them.

    Args:
        alone: this process holds, and writes, all of them.
    """
    writer = HuggingFaceStorageWriter(str(state_folder(checkpoint) / SHARDS), save_distributed=True)
    with _one_process_is_meant():
        save(dict(tensors), storage_writer=writer, no_dist=alone or not torch.distributed.is_initialized())


def load_tensors(checkpoint: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read a checkpoint's tensors of these names in place; every process takes part and reads what it holds of them.

    Raises:
        SrftError: the checkpoint has not all of them.
    """
    reader = HuggingFaceStorageReader(str(state_folder(checkpoint) / SHARDS))
    missing = tensors.keys() - reader.read_metadata().state_dict_metadata.keys()
    if missing:
        raise SrftError(
            f"{checkpoint.name} was saved without {min(missing)}",
            where=str(state_folder(checkpoint)),
            fix=f"Resume with the method that it was trained by, or start a new run: model.path={checkpoint}.",
        )
    with _one_process_is_meant(), torch.no_grad():
        load(dict(tensors), storage_reader=reader, no_dist=not torch.distributed.is_initialized())


def trained_weights(name: str, network: nn.Module) -> dict[str, Tensor]:
    """A network's weights under training, by the names that they are saved under."""
    return {f"weights/{name}/{key}": p.detach() for key, p in network.named_parameters() if p.requires_grad}


def optimizer_state(name: str, network: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """An optimizer's state of the network's weights, by the names that it is saved under."""
    return {
        f"optimizer/{name}/{key}/{moment}": value
        for key, p in network.named_parameters()
        for moment, value in optimizer.state.get(p, {}).items()
    }


def room_for_optimizer_state(checkpoint: Path, name: str, network: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Room in the optimizer for what the checkpoint holds of it, by the names that it is saved under."""
    weights, room = dict(network.named_parameters()), {}
    saved = HuggingFaceStorageReader(str(state_folder(checkpoint) / SHARDS)).read_metadata().state_dict_metadata
    for full_name, tensor in saved.items():
        assert isinstance(tensor, TensorStorageMetadata)
        kind, network_name, key, *moment = full_name.split("/")
        if (kind, network_name) == ("optimizer", name):
            weight = weights[key].detach()
            same_shape = tensor.size == weight.shape  # else a count of steps
            value = torch.empty_like(weight) if same_shape else torch.empty(tensor.size, dtype=tensor.properties.dtype)
            optimizer.state[weights[key]][moment[0]] = room[full_name] = value
    return room


@contextmanager
def _one_process_is_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
