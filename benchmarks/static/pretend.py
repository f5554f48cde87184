"""A GPU that is not there: fake tensors on it, autocast for it, and a backward pass over them.

PyTorch's own engine asks the driver for a device as soon as a gradient is on one, so `backward` walks the graph in its
place: every node once, in the order of the engine, with the sums and changes of dtype that the engine makes on the way.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from maedfer.kernels._configs import targeting

DEVICE = torch.device("cuda", 0)

# Processors of the GPUs that the architectures are best known by: A100, H100 (SXM), B200.
PROCESSORS = {80: 108, 90: 132, 100: 148}


# What treats parameters of other classes in another way; earlier revisions have not all of these.
_ASK_FOR_CLASSES = ("maedfer.models.intact", "maedfer.models.low_precision")


@contextlib.contextmanager
def gpu(arch: int) -> Iterator[None]:
    """Inside of a `with` block PyTorch and the kernels see one GPU of this architecture, on which all is fake."""
    major, minor = divmod(arch, 10)
    properties = SimpleNamespace(major=major, minor=minor, multi_processor_count=PROCESSORS[arch])
    answers: dict[str, Any] = {
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (major, minor),
        "current_device": lambda: DEVICE.index,
        "is_bf16_supported": lambda including_emulation=True: True,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
        stack.enter_context(mock.patch.object(FunctionCtx, "set_materialize_grads", _set_materialize_grads))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _attention))
        for module in filter(None, map(sys.modules.get, _ASK_FOR_CLASSES)):
            stack.enter_context(mock.patch.object(module, "nn", _Layers()))
        stack.enter_context(targeting(arch))
        # What the kernels have asked a GPU for once is neither taken over nor left behind.
        stack.callback(_forget)
        _forget()
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def _attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention by the kernel that comes first: which ones can run, it would ask the driver."""
    if q.is_cuda and q.element_size() == 2 and not any((*args, *kwargs.values())):
        first = _cur_sdpa_kernel_backends(with_priority=True)[0]
        if first == SDPBackend.FLASH_ATTENTION:
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
        if first == SDPBackend.CUDNN_ATTENTION:
            return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, q.requires_grad)[0]
    return torch._C._nn.scaled_dot_product_attention(q, k, v, *args, **kwargs)


class _Layers:
    """torch.nn, for what asks whether a parameter is of PyTorch's own kind: a fake one is."""

    Parameter = FakeTensor

    def __getattr__(self, name: str) -> Any:
        return getattr(nn, name)


def _forget() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("maedfer.kernels"):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


def _set_materialize_grads(ctx: Any, value: bool) -> None:
    # PyTorch's own attribute can be written only.
    ctx.materialize_grads = ctx.fills_gradients = value


def build(make: Callable[[], nn.Module]) -> nn.Module:
    """A module on the GPU, its tensors unwritten; inside of `gpu`."""
    with torch.device("meta"):
        module = make()
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                empty = torch.empty_like(parameter, device=DEVICE)
                part._parameters[name] = nn.Parameter(empty, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else torch.empty_like(buffer, device=DEVICE)
    return module


@torch.no_grad()
def backward(output: Tensor, entering: Callable[[str], None] = lambda node: None) -> None:
    """`output.backward()` of a scalar.

    Args:
        output: what is differentiated.
        entering: told the name of each node of the graph before it computes.
    """
    root = output.grad_fn
    assert root is not None
    waiting = _dependencies(root)
    arrived: dict[Any, dict[int, Tensor]] = {root: {output.output_nr: torch.ones_like(output)}}
    ready = [root]
    while ready:
        # As the engine does, what was made last comes first.
        node = ready.pop(max(range(len(ready)), key=lambda place: ready[place]._sequence_nr()))
        gradients = arrived.pop(node, {})
        entering(node.name())
        results = _apply(node, gradients) if gradients else ()
        for number, (following, place) in enumerate(node.next_functions):
            if following is None:
                continue
            result = results[number] if number < len(results) else None
            if result is not None:
                entering(following.name())
                _add(arrived.setdefault(following, {}), following, place, result)
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)


def _dependencies(root: Any) -> dict[Any, int]:
    """How many edges lead to each node that `root` leads to."""
    count: dict[Any, int] = {}
    nodes = [root]
    while nodes:
        for following, _ in nodes.pop().next_functions:
            if following is None:
                continue
            if following not in count:
                nodes.append(following)
            count[following] = count.get(following, 0) + 1
    return count


def _apply(node: Any, gradients: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    if hasattr(node, "variable"):
        _accumulate(node.variable, gradients[0])
        return ()
    given = [gradients.get(number) for number in range(len(node._input_metadata))]
    results: Any
    if BackwardCFunction not in type(node).__mro__:
        results = node(*given)
    else:
        if getattr(node, "fills_gradients", True):
            given = [
                torch.zeros(about.shape, dtype=about.dtype, device=about.device) if gradient is None else gradient
                for gradient, about in zip(given, node._input_metadata, strict=True)
            ]
        results = node.apply(*given)
        if not isinstance(results, tuple):
            results = (results,)
        # One for each argument of `forward`, but there are edges for tensors alone.
        wanted = (result for result, needed in zip(results, node.needs_input_grad, strict=True) if needed)
        results = tuple(None if following is None else next(wanted) for following, _ in node.next_functions)
    return results if isinstance(results, tuple) else (results,)


def _accumulate(variable: Tensor, gradient: Tensor) -> None:
    if variable.grad is not None:
        variable.grad += gradient
        return
    # The engine keeps what it is given where it is stored as the parameter is.
    if gradient.stride() != variable.stride():
        gradient = torch.empty_like(variable).copy_(gradient)
    variable.grad = gradient.detach()


def _add(arrived: dict[int, Tensor], node: Any, place: int, gradient: Tensor) -> None:
    about = node._input_metadata[place]
    if tuple(gradient.shape) != tuple(about.shape):
        gradient = gradient.sum_to_size(about.shape)
    if gradient.dtype != about.dtype:
        gradient = gradient.to(about.dtype)
    arrived[place] = arrived[place] + gradient if place in arrived else gradient
