"""Who multiplies on a CPU: csrc, oneDNN or PyTorch's default library, found out by trying.

Each library is the fastest on some processors. The first product of a class (what for, dtype, threads, sizes, rows to
a power of two) times all that can make it, for some milliseconds, on numbers of its own; the process remembers the
choice. A library has to be clearly faster than csrc, whose epilogues save passes over the result. Small products are
csrc's.

MAEDFER_PRODUCTS=csrc, onednn or pytorch makes the choice for all products, auto leaves it to the measurement. Under
`torch.use_deterministic_algorithms` nothing is measured and csrc multiplies: bits must not depend on what else a
processor is doing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.errors import InputError, unknown

ENVIRONMENT = "MAEDFER_PRODUCTS"
NAMES = ("csrc", "onednn", "pytorch")

# Products that are summed over rows, weights' gradients; the others are by rows, with a weight or with its transpose.
OVER_ROWS, BY_ROWS, BY_ROWS_TRANSPOSED = "weight gradient", "forward", "input gradient"

# What csrc makes of rows and a weight, or of two matrices of rows; and what gives it for a kind and a dtype.
Product = Callable[[Tensor, Tensor], Tensor]
Trial = Callable[[str, torch.dtype], Product]

_log = logging.getLogger("maedfer")


def _chosen(environment: Mapping[str, str]) -> str:
    name = environment.get(ENVIRONMENT, "") or "auto"
    if name not in ("auto", *NAMES):
        raise InputError(f"environment variable {ENVIRONMENT}={name!r}: choose one of auto, {', '.join(NAMES)}")
    return name


# Read once: what a process does must not depend on when something else changes its environment.
_fixed = _chosen(os.environ)

# Fewer multiply-adds are over before a choice is made.
_WORTH_IT = 2**22
_ROWS, _ROUNDS, _REPEATS, _CLEARLY = 128, 3, 5, 0.75


@contextlib.contextmanager
def use_multiplier(name: str) -> Iterator[None]:
    """Choose for all products inside of a `with` block, as the environment variable does.

    Raises:
        InputError: no such name.
    """
    global _fixed
    if name not in ("auto", *NAMES):
        raise unknown("library for products", name, ("auto", *NAMES))
    before, _fixed = _fixed, name
    try:
        yield
    finally:
        _fixed = before


def multiplier(kind: str, rows: int, size: tuple[int, int], dtype: torch.dtype, csrc: Trial) -> str:
    """Who makes a product.

    Args:
        kind: OVER_ROWS, BY_ROWS or BY_ROWS_TRANSPOSED.
        rows: their number.
        size: of the weight, [N, K].
        dtype: of the product, float32 or bfloat16.
        csrc: gives how csrc makes it, of a weight that is packed already.

    Returns:
        One of NAMES.

    Raises:
        InputError: oneDNN was chosen, and this PyTorch does not have it.
    """
    if _fixed != "auto":
        if _fixed == "onednn" and not _has_onednn():
            raise InputError(f"{ENVIRONMENT}=onednn, but this PyTorch has no oneDNN: choose pytorch, csrc or auto")
        return _fixed
    if torch.are_deterministic_algorithms_enabled() or rows * size[0] * size[1] < _WORTH_IT:
        return "csrc"
    return _fastest(kind, 1 << (rows - 1).bit_length(), size, dtype, torch.get_num_threads(), csrc)


def library_product(name: str, kind: str, x: Tensor, other: Tensor) -> Tensor:
    """A product by a library.

    Args:
        name: "onednn" or "pytorch".
        kind: OVER_ROWS for x^T other of rows [R, N] and [R, K], summed over rows; else x other^T of rows [R, K] and a
            weight [N, K].
        x, other: of one dtype.

    Returns:
        [N, K] float32, which a library's product in two bytes would have rounded; or [R, N] in the dtype of both.
    """
    left, right = (x.t().float(), other.t().float()) if kind == OVER_ROWS else (x, other)
    # Autocast would cast what was cast as it should be.
    with torch.autocast("cpu", enabled=False):
        if name == "onednn":
            found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
            return found
        return F.linear(left, right)


_choices: dict[tuple[object, ...], str] = {}


def _fastest(kind: str, rows: int, size: tuple[int, int], dtype: torch.dtype, threads: int, csrc: Trial) -> str:
    """The choice for a class of products, by measurement when it is asked for first."""
    key = kind, rows, size, dtype, threads
    if key not in _choices:
        _choices[key] = _measured(kind, min(rows, _ROWS), size, dtype, csrc(kind, dtype))
    return _choices[key]


def _measured(kind: str, rows: int, size: tuple[int, int], dtype: torch.dtype, csrc: Product) -> str:
    x, other = _operands(kind, rows, size, dtype)
    candidates: dict[str, Callable[[], Tensor]] = {"csrc": lambda: csrc(x, other)}
    for name in ("onednn", "pytorch"):
        if name == "pytorch" or _has_onednn():
            candidates[name] = functools.partial(library_product, name, kind, x, other)
    # The first call of each is not timed; it shows whether they agree.
    results = {name: run().float() for name, run in candidates.items()}
    choice = library = "csrc"
    # A processor that does something else as well must not make the choice: csrc has to be slower again and again.
    for _ in range(_ROUNDS):
        times = _times(candidates)
        library = min((name for name in times if name != "csrc"), key=lambda name: times[name])
        choice = library if times[library] < _CLEARLY * times["csrc"] else "csrc"
        if choice == "csrc":
            break
    spent = ", ".join(f"{name} {1e3 * one:.2f} ms" for name, one in times.items())
    what = f"{kind} products of {rows} rows with {list(size)} in {str(dtype).removeprefix('torch.')}"
    # Sums in another order differ by a few roundings, those of two bytes by one of the result.
    largest = results["pytorch"].abs().max()
    error = (results["csrc"] - results["pytorch"]).abs().max()
    if not error <= (1e-5 if dtype == torch.float32 else 2**-6) * largest:
        _log.warning("%s: csrc is off by %.3g of %.3g, %s multiplies", what, error, largest, library)
        return library
    _log.info("%s: %s (%s)", what, choice, spent)
    return choice


def _times(candidates: Mapping[str, Callable[[], Tensor]]) -> dict[str, float]:
    """The shortest time of each, in turn."""
    times = dict.fromkeys(candidates, float("inf"))
    for _ in range(_REPEATS):
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - begin)
    return times


def _operands(kind: str, rows: int, size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Numbers between -1/2 and 1/2 that follow no pattern of the sizes, and draw from no generator."""
    shapes = {
        BY_ROWS: ((rows, size[1]), size),
        BY_ROWS_TRANSPOSED: ((rows, size[1]), size[::-1]),
        OVER_ROWS: ((rows, size[0]), (rows, size[1])),
    }
    made = []
    for (height, width), step in zip(shapes[kind], (0.7548776662466927, 0.5698402909980532), strict=True):
        numbers = torch.arange(1, height * width + 1, dtype=torch.float64) * step
        made.append((numbers.frac() - 0.5).to(dtype).view(height, width))
    return made[0], made[1].t() if kind == BY_ROWS_TRANSPOSED else made[1]


@functools.cache
def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
