"""Which process a run belongs to, and whether that process is gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from loratrack.store import leases
from loratrack.store.place import store_folder

PROCESS = "loratrack.process"
"""The tag of what writes a run: `HOST PID STARTED MACHINE/NAMESPACE`."""
OLD_TAGS = ("loratrack.host", "loratrack.pid", "loratrack.started", "loratrack.machine")
"""The same in four tags, as runs of earlier versions have them."""
ENDED_BY = "loratrack.ended_by"
"""The tag of a run that somebody ended for a process that no longer could."""
CLOCK_SECONDS = 2.0
"""A process tells its start in ticks since boot, and clocks are set while machines run."""


def own_tags() -> dict[str, str]:
    """What a run says of the process that writes it."""
    started = f"{psutil.Process().create_time():.2f}"
    return {PROCESS: f"{socket.gethostname()} {os.getpid()} {started} {_machine()}/{_pid_namespace()}"}


@dataclass(frozen=True)
class Owner:
    """The process that left its tags at a run."""

    host: str
    pid: int
    started: float
    place: str


def owner(tags: Mapping[str, str]) -> Owner | None:
    """None where the tags do not say it, or somebody has changed them."""
    words = tags[PROCESS].split(" ") if PROCESS in tags else [tags.get(name, "") for name in OLD_TAGS]
    try:
        host, pid, started, place = words
        return Owner(host, int(pid), float(started), place)
    except ValueError:
        return None


def is_gone(tags: Mapping[str, str]) -> bool | None:
    """Whether the process that left these tags is no more; None when this cannot be told from here."""
    told = owner(tags)
    if told is None:
        return None
    host, pid, started = told.host, told.pid, told.started
    machine, _, namespace = told.place.rpartition("/")
    if host != socket.gethostname() or machine != _machine():
        return None
    if started < psutil.boot_time() - CLOCK_SECONDS:
        return True
    if namespace != _pid_namespace():
        return None
    return not _is_alive(pid, started)


def is_dead(run_id: str, tags: Mapping[str, str]) -> bool | None:
    """Whether nobody writes the run any more; None when this cannot be told from here.

    A lease that is held tells more than a process number: that one means nothing in another container, and a
    sweep outlives the process that began it.
    """
    return False if leases.is_held(store_folder(), run_id) else is_gone(tags)


def is_own(tags: Mapping[str, str]) -> bool:
    told, own = owner(tags), owner(own_tags())
    if told is None or own is None:
        return False
    return (told.host, told.pid, told.place) == (own.host, own.pid, own.place) and not is_gone(tags)


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - started) < CLOCK_SECONDS
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    """The machine's own id, where it has one: names of hosts repeat."""
    try:
        return Path("/etc/machine-id").read_text("ascii").strip()[:12]
    except (OSError, UnicodeDecodeError):
        return ""


def _pid_namespace() -> str:
    """Containers on one machine count their processes apart."""
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""
