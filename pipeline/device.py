"""Where a network runs and in which precision. The device is an argument everywhere; nothing here is a default."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from pipeline.errors import ModelError

BF16_FROM = (8, 0)  # CUDA compute capability (Ampere)
NO_MEMORY = (  # in the text of a plain RuntimeError, or of an AcceleratorError
    "DefaultCPUAllocator",
    "CUDA error: out of memory",  # beside torch's allocator: the context, a library that is loaded
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN, when no convolution's workspace finds room
)


def choose(name: str) -> torch.device:
    """ "auto" is the first CUDA device where there is one, else the CPU. Raises ModelError for an absent device."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f'device {name!r} is not known; write "auto", "cpu" or "cuda:0"') from error
    if device.type not in {"cpu", "cuda"}:
        raise ModelError(f'device {name!r} cannot be used; write "auto", "cpu" or "cuda:0"')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r} is not here: {torch.cuda.device_count()} CUDA devices are visible")
    return device


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, else float32 (CPU) or float16 (older CUDA)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= BF16_FROM else torch.float16
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    fast = features.get("amx_bf16") or features.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision of the device; nothing where its precision is float32."""
    dtype = precision(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; only torch's CUDA allocator has a class of its own for it."""
    said = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in said for words in NO_MEMORY)
