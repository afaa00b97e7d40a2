"""Where a run happened: packages, devices, system, code and command; secrets hidden."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from loratrack.store.secrets import scrub, scrub_text

GIT_TIMEOUT_SECONDS = 30
MAX_DIFF_CHARACTERS = 1_000_000
NO_GPU: dict[str, Any] = {"driver": None, "cuda": None, "devices": []}


def environment() -> dict[str, Any]:
    """All that `env_info.json` holds.

    Never imports torch; its facts are included only if it is loaded already.
    """
    facts = {
        "python": sys.version,
        "executable": sys.executable,
        "command": shlex.join(sys.orig_argv),
        "folder": os.getcwd(),
        "os": platform.platform(),
        "host": platform.node(),
        "cpu": {"model": cpu_model(), "cores": psutil.cpu_count(logical=False), "threads": os.cpu_count()},
        "memory_bytes": psutil.virtual_memory().total,
        "torch": _torch(),
        "gpu": gpu(),
        "git": git(),
        "packages": packages(),
    }
    return dict(scrub(facts))


def device_name() -> str:
    """The first GPU that torch can use, else the processor."""
    torch = sys.modules.get("torch")
    if torch is not None:
        usable = torch.cuda.is_available()
        return str(torch.cuda.get_device_name()) if usable else cpu_model()
    devices = gpu()["devices"]
    return str(devices[0]["name"]) if devices else cpu_model()


def cpu_model() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def packages() -> dict[str, str]:
    """Every installed package and its version; looked up once, since what runs is what was there then."""
    versions = {str(package.metadata["Name"]): package.version for package in metadata.distributions()}
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))


def git() -> dict[str, Any] | None:
    """The commit and what differs from it, as git tells it, secrets too; None outside a repository."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    diff = scrub_text(_git("diff", "HEAD") or "")  # before it is cut: half a secret has no format
    status = _git("status", "--porcelain") or ""
    return {
        "commit": commit,
        "branch": _git("rev-parse", "--abbrev-ref", "HEAD"),
        "remote": _git("config", "--get", "remote.origin.url"),
        "dirty": bool(status),
        "status": status.splitlines(),
        "diff": diff[:MAX_DIFF_CHARACTERS],
        "diff_is_whole": len(diff) <= MAX_DIFF_CHARACTERS,
    }


def _git(*arguments: str) -> str | None:
    try:
        process = subprocess.run(
            ["git", *arguments], capture_output=True, timeout=GIT_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit, no remote
        return None
    return process.stdout.decode("utf-8", errors="replace").rstrip("\n")


def _torch() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {"version": packages().get("torch")}
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def gpu() -> dict[str, Any]:
    """Driver and devices as NVML reports them; nothing on a machine without."""
    try:
        import pynvml
    except ImportError:
        return NO_GPU
    try:
        pynvml.nvmlInit()
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "cuda": pynvml.nvmlSystemGetCudaDriverVersion(),
            "devices": [_device(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())],
        }
    except pynvml.NVMLError:
        return NO_GPU


def _device(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return {
        "name": nvml.nvmlDeviceGetName(handle),
        "uuid": nvml.nvmlDeviceGetUUID(handle),
        "memory_bytes": nvml.nvmlDeviceGetMemoryInfo(handle).total,
    }
