"""A device that is not there: tensors that compute on the CPU but refuse to meet the CPU's, as a GPU's would.

Inside `elsewhere()`, `.to(THERE)` gives such tensors. Any operation on one of them and a CPU tensor of more than one
number is a `WrongDevice`, but for what CUDA allows too: copying across, and indexing by a CPU tensor. Not seen is what
autograd does by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

THERE = torch.device("cuda:0")
DEVICE, IS_CUDA = torch.Tensor.device.__get__, torch.Tensor.is_cuda.__get__
GRADIENT = torch.Tensor.grad.__get__
TO, CPU, COPY = torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.copy_
GET, SET = torch.Tensor.__getitem__, torch.Tensor.__setitem__


class WrongDevice(AssertionError):
    pass


class Far(torch.Tensor):
    """A tensor on that device."""

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied = self.detach().clone()
        if getattr(self, "_is_param", False):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == DEVICE:  # made anew at each look: not the same object
            return THERE
        if func == IS_CUDA:
            return True
        if func == GRADIENT:  # of autograd's own making
            found = super().__torch_function__(func, types, args, kwargs)
            return None if found is None else found.as_subclass(cls)
        _check(func, args, kwargs)
        if func is CPU or (func is TO and _target(args, kwargs) == "cpu"):
            copied = kwargs.get("copy", False)
            near = args[0].as_subclass(torch.Tensor)
            return near.clone() if copied else near
        if func is TO and _target(args, kwargs) == "cuda":
            return args[0].clone() if kwargs.get("copy", False) else args[0]
        return super().__torch_function__(func, types, args, kwargs)


def _target(args: Any, kwargs: Any) -> str | None:
    for x in (*args[1:], kwargs.get("device")):
        if isinstance(x, str | torch.device):
            return torch.device(x).type
    return None


def _check(func: Any, args: Any, kwargs: Any) -> None:
    if func in (COPY, TO, torch._has_compatible_shallow_copy_type):
        return
    used = list(args)
    if func in (GET, SET) and isinstance(args[0], Far):
        del used[1]  # any index will do
    tensors = [x for x in tree_leaves((used, kwargs)) if isinstance(x, torch.Tensor)]
    near = [x for x in tensors if not isinstance(x, Far) and x.as_subclass(torch.Tensor).dim() > 0]
    if 0 < len(near) < len(tensors):
        name = getattr(func, "__name__", str(func))
        raise WrongDevice(f"{name}: a CPU tensor of shape {tuple(near[0].shape)} meets one on {THERE}")


class _Elsewhere(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if (
            isinstance(kwargs.get("device"), torch.device)
            and kwargs["device"].type == "cuda"
            and func is not TO
        ):
            del kwargs["device"]
            return func(*args, **kwargs).as_subclass(Far)
        if func is TO and not isinstance(args[0], Far) and _target(args, kwargs) == "cuda":
            plain = args[0].clone() if kwargs.get("copy", False) else args[0]
            return plain.as_subclass(Far)
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Elsewhere():
            yield THERE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
