"""`loratrack doctor`: what is wrong here, and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console

from loratrack import __version__
from loratrack.errors import StoreError
from loratrack.places import cache_folder, our_project

if TYPE_CHECKING:
    from loratrack.views.health import Finding

FOUND_SOMETHING = 1
LOCK = "requirements.txt"
LOCKED = re.compile(r"^([\w.-]+)==([\w.+!-]+)", re.MULTILINE)
PLUG_INS = ("mlflow.run_context_provider", "mlflow.tracking_store", "mlflow.model_registry_store")
GIBIBYTE = 2**30
LITTLE_GIBIBYTES, TOO_LITTLE_GIBIBYTES = 5, 1
HUB = "https://huggingface.co"
HUB_SECONDS = 3
STORE_SECONDS = "5"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
YES = ("1", "on", "true", "yes")
SIGNS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
MAX_SHOWN = 5


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="what is wrong here, and what to do about it",
        epilog="exit codes: 0 nothing to do, 1 there is a fault, 2 wrong use",
    )
    parser.add_argument(
        "--fix", action="store_true", help="mark runs FAILED whose process on this machine is gone"
    )
    parser.add_argument("--json", action="store_true", help="all findings as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    findings = [*_environment(), *_store(arguments.fix), *_disk(), _gpu(), _hub()]
    console = Console(soft_wrap=True)
    if arguments.json:
        content = [asdict(finding) for finding in findings]
        console.out(json.dumps(content, ensure_ascii=False, indent=1), highlight=False)
    else:
        for finding in findings:
            remedy = f"  -> {finding.remedy}" if finding.remedy else ""
            line = f"{SIGNS[finding.state]}  {finding.area:<11}  {finding.text}{remedy}"
            console.print(line, highlight=False, markup=False)
    return FOUND_SOMETHING if any(finding.state == "fault" for finding in findings) else 0


def _environment() -> Iterator[Finding]:
    from loratrack.tracking.environment import packages
    from loratrack.views.health import Finding

    installed = {str(canonicalize_name(name)): version for name, version in packages().items()}
    unmet = list(_unmet(installed))
    text = f"loratrack {__version__}, mlflow {installed.get(canonicalize_name('mlflow'), 'none')}"
    if unmet:
        yield Finding("environment", "fault", f"{text}; unmet: {', '.join(unmet)}", "make setup")
    else:
        yield Finding("environment", "ok", text)
    project = our_project()
    if project is not None and (project / LOCK).is_file():
        yield _lock(project / LOCK, installed)
    missing = [group for group in PLUG_INS if not metadata.entry_points(group=group, name=_plug_in(group))]
    if missing:
        remedy = "install the package itself: pip install -e ."
        yield Finding("plug-in", "fault", f"MLflow does not know ours: {', '.join(missing)}", remedy)
    else:
        yield Finding("plug-in", "ok", "MLflow imports ours in each of its processes")


def _plug_in(group: str) -> str:
    return "sqlite" if group.endswith("_store") else "loratrack"


def _unmet(installed: Mapping[str, str]) -> Iterator[str]:
    """What our own package asks for and this environment does not have."""
    for line in metadata.requires("loratrack") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        found = installed.get(canonicalize_name(wanted.name))
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name}{wanted.specifier} (got {found or 'none'})"


def _lock(file: Path, installed: Mapping[str, str]) -> Finding:
    from loratrack.views.health import Finding

    wanted = {canonicalize_name(name): version for name, version in LOCKED.findall(file.read_text("utf-8"))}
    other = [
        f"{name} {installed[name]} (locked {version})"
        for name, version in wanted.items()
        if name in installed and installed[name].partition("+")[0] != version.partition("+")[0]
    ]
    if not other:
        return Finding("lock", "ok", f"every installed version is the one in {LOCK}")
    shown = ", ".join(other[:MAX_SHOWN]) + (", …" if len(other) > MAX_SHOWN else "")
    return Finding("lock", "note", f"{len(other)} versions are not those of {LOCK}: {shown}", "make setup")


def _store(is_fix: bool) -> Iterator[Finding]:
    from loratrack.views import health

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", STORE_SECONDS)
    yield from health.check_outbox()
    try:
        yield health.check_store()
        runs = health.open_runs()
        if is_fix:
            for run in health.end_dead(runs):
                yield health.Finding("runs", "ok", f"{run.name} ({run.run_id}) is marked FAILED")
            runs = [run for run in runs if not run.is_dead]
        yield from health.check_runs(runs)
        yield from health.check_registry()
    except StoreError as error:
        yield health.Finding("store", "fault", str(error), "mlflow ui, or start the server")


def _disk() -> Iterator[Finding]:
    from loratrack.store.place import store_folder
    from loratrack.views.health import Finding

    for folder in (store_folder(), cache_folder()):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free / GIBIBYTE
        text = f"{free:.1f} GiB free for {folder}"
        if free >= LITTLE_GIBIBYTES:
            yield Finding("disk", "ok", text)
        else:
            remedy = "make room; loratrack cache prune deletes what can be made again"
            yield Finding("disk", "fault" if free < TOO_LITTLE_GIBIBYTES else "note", text, remedy)


def _gpu() -> Finding:
    from loratrack.tracking import environment
    from loratrack.views.health import Finding

    found = environment.gpu()
    if not found["devices"]:
        return Finding("gpu", "note", f"none; trainings compute on {environment.cpu_model()}")
    names = ", ".join(
        f"{device['name']} ({device['memory_bytes'] / GIBIBYTE:.0f} GiB)" for device in found["devices"]
    )
    return Finding("gpu", "ok", f"{names}, driver {found['driver']}")


def _hub() -> Finding:
    from loratrack.views.health import Finding

    local = "bases come from this machine: minilm, a folder, or what was fetched before"
    for name in OFFLINE:
        if os.environ.get(name, "").lower() in YES:
            return Finding("hub", "note", f"{name} is set; {local}")
    address = os.environ.get("HF_ENDPOINT", HUB)
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "loratrack"})
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        return Finding("hub", "note", f"{address} cannot be reached ({error}); {local}", "check the network")
    return Finding("hub", "ok", f"{address} answers")
