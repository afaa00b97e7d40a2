"""What may be wrong with this machine: packages, plug-in, store, disk, GPU, hub."""

from __future__ import annotations

import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from loratrack import __version__
from loratrack.checkpoints import KEPT_DAYS
from loratrack.errors import StoreError
from loratrack.places import cache_folder, our_project
from loratrack.store import relocation
from loratrack.store.place import database_file, store_folder, tracking_uri
from loratrack.tracking import environment
from loratrack.views import health
from loratrack.views.health import Finding

LOCK_FILE = "requirements.txt"
LOCKED_VERSION = re.compile(r"^([\w.-]+)==([\w.+!-]+)", re.MULTILINE)
PLUG_INS = {
    "mlflow.run_context_provider": "loratrack",
    "mlflow.tracking_store": "sqlite",
    "mlflow.model_registry_store": "sqlite",
}
"""The entry points through which MLflow finds us: group and name."""
GIBIBYTE = 2**30
LOW_DISK_GIBIBYTES, FULL_DISK_GIBIBYTES = 5, 1
HUB = "https://huggingface.co"
HUB_TIMEOUT_SECONDS = 3
STORE_TIMEOUT_SECONDS = "5"
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE_VALUES = ("1", "on", "true", "yes")
MAX_LISTED = 5


def check(
    *, is_fix: bool = False, dead_run: str | None = None, kept_days: int = KEPT_DAYS
) -> Iterator[Finding]:
    """Every check there is. `is_fix` ends runs whose process is gone, corrects paths, and cleans up.

    `dead_run`: the user says of this run that it is dead; it is ended too. `kept_days`: how long checkpoints
    are kept that nobody goes on with.
    """
    yield from check_packages()
    yield from check_store(is_fix=is_fix, dead_run=dead_run, kept_days=kept_days)
    yield from check_disk()
    yield check_gpu()
    yield check_hub()


def check_packages() -> Iterator[Finding]:
    """Our requirements, the locked versions, and whether MLflow finds our plug-in."""
    installed = {str(canonicalize_name(name)): version for name, version in environment.packages().items()}
    unmet = unmet_requirements(installed)
    text = f"loratrack {__version__}, mlflow {installed.get('mlflow', 'none')}"
    if unmet:
        yield Finding("environment", "fault", f"{text}; unmet: {', '.join(unmet)}", "make setup")
    else:
        yield Finding("environment", "ok", text)
    project = our_project()
    if project is not None and (project / LOCK_FILE).is_file():
        yield check_lock(project / LOCK_FILE, installed)
    missing = [group for group, name in PLUG_INS.items() if not metadata.entry_points(group=group, name=name)]
    if missing:
        remedy = "install the package itself: pip install -e ."
        yield Finding("plug-in", "fault", f"MLflow does not find ours: {', '.join(missing)}", remedy)
    else:
        yield Finding("plug-in", "ok", "MLflow imports ours in each of its processes")


def unmet_requirements(installed: Mapping[str, str]) -> list[str]:
    """What our own package requires and this environment does not have."""
    unmet = []
    for line in metadata.requires("loratrack") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement.name}{requirement.specifier} (got {version or 'none'})")
    return unmet


def check_lock(file: Path, installed: Mapping[str, str]) -> Finding:
    """A note where an installed version is another than the one in `file`."""
    locked = {
        canonicalize_name(name): version for name, version in LOCKED_VERSION.findall(file.read_text("utf-8"))
    }
    other = [
        f"{name} {installed[name]} (locked {version})"
        for name, version in locked.items()
        if name in installed and installed[name].partition("+")[0] != version.partition("+")[0]
    ]
    if not other:
        return Finding("lock", "ok", f"every installed version is the one in {file.name}")
    names = ", ".join(other[:MAX_LISTED]) + (", …" if len(other) > MAX_LISTED else "")
    return Finding(
        "lock", "note", f"{len(other)} versions are not those of {file.name}: {names}", "make setup"
    )


def check_store(*, is_fix: bool, dead_run: str | None, kept_days: int) -> Iterator[Finding]:
    """Outbox, store, open runs and registry; what lies in a store that does not answer is left out."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", STORE_TIMEOUT_SECONDS)
    yield from check_paths(is_fix=is_fix)
    yield from health.check_outbox(is_fix=is_fix)
    try:
        yield health.check_store()
        runs = health.open_runs()
        if is_fix:
            yield from health.end_dead(runs, dead_run)
            runs = [run for run in runs if not run.is_dead and run.run_id != dead_run]
        yield from health.check_runs(runs)
        yield from health.check_stopped(is_fix=is_fix, kept_days=kept_days)
        yield from health.check_registry()
    except StoreError as error:
        yield Finding("store", "fault", str(error), "mlflow ui, or start the server")


def check_paths(*, is_fix: bool) -> Iterator[Finding]:
    """Whether the recorded paths of artifacts lead to where the store is."""
    file = database_file(tracking_uri())
    old = None if file is None else relocation.recorded(file)
    if file is None or old is None:
        return
    if is_fix:
        try:
            relocation.follow(tracking_uri())
        except StoreError as error:
            yield Finding("paths", "fault", str(error))
            return
        yield Finding(
            "paths", "ok", f"the recorded artifact paths led to {old}, and lead to {file.parent} now"
        )
    else:
        text = (
            f"the recorded artifact paths lead to {old}, the store is {file.parent}; mlflow ui finds no files"
        )
        yield Finding("paths", "note", text, "the next training corrects them, or loratrack doctor --fix")


def check_disk() -> Iterator[Finding]:
    for folder in (store_folder(), cache_folder()):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free / GIBIBYTE
        text = f"{free:.1f} GiB free for {folder}"
        if free >= LOW_DISK_GIBIBYTES:
            yield Finding("disk", "ok", text)
        else:
            remedy = "make room; loratrack cache prune deletes what can be made again"
            yield Finding("disk", "fault" if free < FULL_DISK_GIBIBYTES else "note", text, remedy)


def check_gpu() -> Finding:
    facts = environment.gpu()
    if not facts["devices"]:
        return Finding("gpu", "note", f"none; trainings compute on {environment.cpu_model()}")
    names = ", ".join(
        f"{device['name']} ({device['memory_bytes'] / GIBIBYTE:.0f} GiB)" for device in facts["devices"]
    )
    return Finding("gpu", "ok", f"{names}, driver {facts['driver']}")


def check_hub() -> Finding:
    """Whether base networks can be downloaded."""
    local = "bases come from this machine: minilm, a folder, or what was downloaded before"
    for name in OFFLINE_VARIABLES:
        if os.environ.get(name, "").lower() in TRUE_VALUES:
            return Finding("hub", "note", f"{name} is set; {local}")
    address = os.environ.get("HF_ENDPOINT", HUB)
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "loratrack"})
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # an answer too
    except (OSError, ValueError) as error:
        return Finding("hub", "note", f"{address} cannot be reached ({error}); {local}", "check the network")
    return Finding("hub", "ok", f"{address} answers")
