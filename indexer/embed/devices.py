"""Devices that failed while this process ran. They are tried again by the next one, not by this."""

from __future__ import annotations

import logging
import threading

from indexer.api import Notice

_log = logging.getLogger(__name__)
_lost: dict[str, Notice] = {}
_lock = threading.Lock()

# After these CUDA answers nothing more in this process (CUDA C++ Programming Guide, "sticky" errors); ROCm
# and Apple's Metal have the same in their words.
_LOST_SIGNS = (
    *("CUDA error", "CUDA driver error", "device-side assert", "unspecified launch failure"),
    *("illegal memory access", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cuDNN error", "NVML_", "HIP error"),
    *("MPS backend error", "command buffer exited with error"),
)
_MEMORY_SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left; only CUDA has a class of its own for that."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)


def is_lost(error: BaseException) -> bool:
    """Whether a device failed so that it cannot be used any more."""
    import torch

    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST_SIGNS)


def lose(device: str, error: BaseException) -> None:
    """Note that a device failed; `notices` tells it."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    _log.error("%s failed and is not used any more: %s", device, reason)
    kind = device.partition(":")[0]
    with _lock:
        _lost[device] = Notice(
            title="The graphics card failed",
            message=f"{device} stopped answering ({reason.rstrip('.')}). The language model goes on with the "
            "processor, which is slower; nothing is lost. The next start tries the card again. If it happens "
            f"often, update its driver, or set the device to cpu instead of {kind} in the settings.",
        )


def lost(device: str) -> bool:
    """Whether a device, such as ``cuda:0``, failed before."""
    with _lock:
        return device in _lost


def notices() -> list[Notice]:
    """What a person should know of devices that failed."""
    with _lock:
        return list(_lost.values())
