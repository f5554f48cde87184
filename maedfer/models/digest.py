"""The digest of what a file of weights holds, by which damage and changes by hand are found.

A zip archive's own checksums tell a torn file, but not one that somebody edited and packed anew. The digest is stored
in the file beside what it is of; it is no signature, and whoever wants to deceive can compute another one.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Where a mapping has its digest, which is not of itself.
DIGEST = "digest"
_MOST_THREADS = 8


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of tensors (dtype, shape, bytes) and plain values in nested containers, without the entry `DIGEST`.

    Containers count by kind (mapping or sequence), length and order, so that a file that was read again has the digest
    of what was written.

    Raises:
        TypeError: it holds something that is neither.
    """
    parts = list(_parts({key: value for key, value in content.items() if key != DIGEST}))
    tensors = [part for part in parts if isinstance(part, Tensor)]
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        # hashlib lets other threads run while it computes.
        digests = pool.map(_tensor_digest, tensors)
        total = hashlib.sha256()
        for part in parts:
            total.update(next(digests) if isinstance(part, Tensor) else part)
    return total.hexdigest()


def fits_digest(content: Mapping[str, Any]) -> bool:
    """Whether what was read is what was written; also where it has no digest, as earlier versions wrote it."""
    if DIGEST not in content:
        return True
    try:
        return content[DIGEST] == content_digest(content)
    except TypeError:
        return False


def _parts(value: Any) -> Iterator[bytes | Tensor]:
    """What is hashed, in order; every part says its kind and length, so that no two contents give the same parts."""
    if isinstance(value, Tensor):
        yield f"T{value.dtype}{list(value.shape)};".encode()
        yield value
    elif isinstance(value, Mapping):
        yield b"M%d;" % len(value)
        for key, item in value.items():
            yield from _parts(key)
            yield from _parts(item)
    elif isinstance(value, (list, tuple)):
        yield b"S%d;" % len(value)
        for item in value:
            yield from _parts(item)
    elif isinstance(value, np.generic):
        yield from _parts(value.item())
    elif value is None or isinstance(value, (bool, int)):
        yield f"{value!r};".encode()
    elif isinstance(value, float):
        yield b"F" + struct.pack("<d", value)
    elif isinstance(value, (str, bytes)):
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        yield b"%s%d;" % (b"U" if isinstance(value, str) else b"B", len(raw)) + raw
    else:
        raise TypeError(f"a digest is of tensors and plain values, not of {type(value).__name__}")


def _tensor_digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).digest()
