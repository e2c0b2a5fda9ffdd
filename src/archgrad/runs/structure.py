"""Nested Python state taken apart into JSON and a flat list of tensors, and put together again exactly.

JSON objects whose only key starts with "$" are tags; every other object is a dict with str keys:

    {"$tensor": "3"}                  the tensor named "3" in the file; "dims": the order of its dimensions in memory
    {"$array": "4"}, {"$scalar": "4"} the same as a NumPy array or scalar
    {"$tuple": [...]}                 a tuple
    {"$dict": [[key, value], ...]}    a dict whose keys are not all plain str
    {"$float": "nan"}                 nan, inf or -inf
    {"$bytes": "..."}                 bytes in base64
    {"$str": "..."}                   a str with lone surrogates, in base64
"""

from __future__ import annotations

import base64
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archgrad.errors import RunError

__all__ = ["is_stored", "join", "split"]

_MAX_DEPTH = 100
_MAX_INTEGER_BITS = 4096  # far over any random state's; under what int() takes from text
# Stored as integers of the same width: NumPy has no bfloat16, not every safetensors has the wide unsigned types.
_STORED_AS = {
    torch.bfloat16: torch.int16, torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64,
}  # fmt: skip
# Stored as pairs (real, imaginary) in one more dimension.
_STORED_AS |= {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}
_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in _STORED_AS}
_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.bool, *_STORED_AS,
}  # fmt: skip


def split(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Take a state apart.

    Args:
        state: Nested dict, list and tuple of tensors, NumPy arrays, str, int, float, bool, None and bytes.

    Returns:
        JSON data, and the tensors (on the CPU, contiguous, of dtypes that NumPy has; they may share memory with the
        state) by the names used in it. A tensor that occurs several times is taken once.

    Raises:
        RunError: Something in the state is not of these; the message says where.
    """
    splitter = _Splitter()
    return splitter.encode(state, "state", 0), splitter.tensors


def join(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put a state together again from what `split` returned.

    Raises:
        RunError: The data is not of that form.
    """
    return _decode(structure, tensors, 0)


def is_stored(tensor: Tensor) -> bool:
    """Return whether a checkpoint can hold the tensor: it is dense, and of a type that safetensors has."""
    return _is_dense(tensor) and tensor.dtype in _DTYPES


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type != "meta"


class _Splitter:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._tags: dict[tuple[object, ...], dict[str, Any]] = {}
        self._alive: list[Tensor] = []  # keeps the memory of seen tensors, so that no address is seen twice by chance

    def encode(self, value: Any, where: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise RunError(f"{where} nests deeper than {_MAX_DEPTH} levels, or holds itself. Flatten it.")
        if value is None or isinstance(value, bool):
            return value
        kind = type(value)
        if kind is int:
            if value.bit_length() > _MAX_INTEGER_BITS:
                raise RunError(f"{where} is an integer of more than {_MAX_INTEGER_BITS} bits, which cannot be stored.")
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if kind is str:
            return value if _is_plain(value) else {"$str": _to_base64(value.encode("utf-8", "surrogatepass"))}
        if kind is bytes:
            return {"$bytes": _to_base64(value)}
        if kind is list:
            return [self.encode(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
        if kind is tuple:
            return {"$tuple": [self.encode(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]}
        if kind is dict or kind is OrderedDict:
            return self._encode_dict(value, where, depth)
        if isinstance(value, Tensor):
            return self._encode_tensor(value, where)
        if isinstance(value, (np.ndarray, np.generic)):
            tag = "$array" if isinstance(value, np.ndarray) else "$scalar"
            return self._encode_array(np.asarray(value), where, tag)
        raise RunError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint does not store. "
            f"Turn it into dict, list, tuple, tensor, array, str, int, float, bool, bytes or None."
        )

    def _encode_dict(self, value: dict[Any, Any], where: str, depth: int) -> Any:
        if all(type(key) is str and not key.startswith("$") and _is_plain(key) for key in value):
            return {key: self.encode(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
        pairs = []
        for key, item in value.items():
            if not _is_key(key):
                raise RunError(f"{where} has the key {key!r}, but keys must be str, int, float, bool, None or a tuple.")
            pairs.append(
                [self.encode(key, f"a key of {where}", depth + 1), self.encode(item, f"{where}[{key!r}]", depth + 1)]
            )
        return {"$dict": pairs}

    def _encode_tensor(self, tensor: Tensor, where: str) -> dict[str, Any]:
        if not _is_dense(tensor):
            raise RunError(f"{where} is a {tensor.layout} tensor on {tensor.device}; only dense tensors are stored.")
        if tensor.dtype not in _DTYPES:
            raise RunError(f"{where} has dtype {tensor.dtype}, which a checkpoint does not store. Convert it.")
        memory = (tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        key: tuple[object, ...] = memory if tensor.numel() else (id(tensor),)
        if key not in self._tags:
            self._alive.append(tensor)
            # Memory order is kept, so that a channels_last buffer comes back as one: elementwise kernels round
            # differently at the ends of a vector, and a resumed run is to be the same to the bit.
            content, order = tensor.detach(), None
            if not content.is_contiguous():
                strides = content.stride()
                order = sorted(range(content.dim()), key=lambda dim: -strides[dim])
                permuted = content.permute(order)
                content, order = (permuted, order) if permuted.is_contiguous() else (content.contiguous(), None)
            tag = self._store(content, "$tensor")
            self._tags[key] = tag if order is None else {**tag, "dims": order}
        return self._tags[key]

    def _encode_array(self, array: np.ndarray[Any, Any], where: str, tag: str) -> dict[str, Any]:
        try:
            tensor = torch.from_numpy(np.array(array, order="C", copy=True))
        except (TypeError, ValueError) as error:
            raise RunError(f"{where} is an array of dtype {array.dtype}, which a checkpoint does not store.") from error
        if tensor.dtype not in _DTYPES:
            raise RunError(
                f"{where} is an array of dtype {array.dtype}, which a checkpoint does not store. Convert it."
            )
        return self._store(tensor, tag)

    def _store(self, tensor: Tensor, tag: str) -> dict[str, Any]:
        name = str(len(self.tensors))
        encoded = {tag: name}
        if tensor.dtype in _STORED_AS:
            encoded["dtype"] = str(tensor.dtype).removeprefix("torch.")
            if tensor.is_complex():
                tensor = torch.view_as_real(tensor.resolve_conj())
            else:
                tensor = tensor.view(_STORED_AS[tensor.dtype])
        self.tensors[name] = tensor.cpu()
        return encoded


def _decode(data: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise RunError(f"The state nests deeper than {_MAX_DEPTH} levels.")
    if isinstance(data, list):
        return [_decode(item, tensors, depth + 1) for item in data]
    if not isinstance(data, dict):
        return data
    tag = next(iter(data), "")
    if not tag.startswith("$"):
        return {key: _decode(item, tensors, depth + 1) for key, item in data.items()}
    payload = data[tag]
    if tag in ("$tensor", "$array", "$scalar"):
        tensor = _tensor(data, tag, tensors)
        if tag == "$tensor":
            return tensor
        return tensor.numpy() if tag == "$array" else tensor.numpy()[()]
    if tag in ("$tuple", "$dict"):
        items = [_decode(item, tensors, depth + 1) for item in _checked(payload, list, tag)]
        return tuple(items) if tag == "$tuple" else _pairs(items)
    if tag in _TEXT_TAGS:
        try:
            return _TEXT_TAGS[tag](_checked(payload, str, tag))
        except ValueError as error:
            raise RunError(f"The state holds a malformed '{tag}': {error}.") from error
    raise RunError(f"The state holds the unknown tag {tag!r}; it was written by a newer archgrad, or damaged.")


_TEXT_TAGS: dict[str, Callable[[str], Any]] = {
    "$float": float,
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$str": lambda text: base64.b64decode(text, validate=True).decode("utf-8", "surrogatepass"),
}


def _tensor(data: dict[str, Any], tag: str, tensors: Mapping[str, Tensor]) -> Tensor:
    name = _checked(data[tag], str, tag)
    if name not in tensors:
        raise RunError(f"The state refers to the tensor {name!r}, which is not in the file.")
    tensor = tensors[name]
    if "dtype" in data:
        dtype = _BY_NAME.get(_checked(data["dtype"], str, tag))
        if dtype is None or tensor.dtype != _STORED_AS[dtype]:
            raise RunError(
                f"The state gives the tensor {name!r} the dtype {data['dtype']!r}, but it is {tensor.dtype}."
            )
        if not dtype.is_complex:
            tensor = tensor.view(dtype)
        elif tensor.dim() and tensor.shape[-1] == 2:
            tensor = torch.view_as_complex(tensor)
        else:
            raise RunError(f"The state has the tensor {name!r} as pairs of shape {tuple(tensor.shape)}.")
    if "dims" in data:
        order = data["dims"]
        if not isinstance(order, list) or not all(type(dim) is int for dim in order):
            raise RunError(f"The state gives the tensor {name!r} dimensions that are no list of integers.")
        if sorted(order) != list(range(tensor.dim())):
            raise RunError(f"The state orders the {tensor.dim()} dimensions of the tensor {name!r} as {order[:20]}.")
        tensor = tensor.permute([order.index(dim) for dim in range(tensor.dim())])
    if tag != "$tensor" and tensor.dtype == torch.bfloat16:
        raise RunError(f"The state has the tensor {name!r} as an array, but NumPy has no bfloat16.")
    return tensor


def _pairs(items: list[Any]) -> dict[Any, Any]:
    result = {}
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or not _is_key(item[0]):
            raise RunError("The state holds a dict that is not a list of keys and values.")
        result[item[0]] = item[1]
    return result


def _checked(value: Any, kind: type, tag: str) -> Any:
    if not isinstance(value, kind):
        raise RunError(f"The state holds a '{tag}' of {type(value).__name__} where {kind.__name__} belongs.")
    return value


def _is_key(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(_is_key(item) for item in key)
    return key is None or type(key) in (str, int, float, bool)


def _is_plain(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
