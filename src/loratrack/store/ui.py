"""MLflow's own pages over this store, in one quiet process that opens on the runs.

with listen("127.0.0.1", None) as place:            # a free port; an asked-for one must be free
    serve(place, first_page, lambda: print(place.address))

MLflow 3 opens in its mode for GenAI, with an assistant beside it and a window about traces before it. What
the page remembers of that lies in the browser, so the first page sets it there, once, before MLflow's own
script runs; whatever the user chooses later stays. `mlflow ui` itself is left as it is.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from loratrack.disk import try_lock
from loratrack.errors import UserError
from loratrack.places import ARTIFACTS
from loratrack.store.links import HOST, PORT, served_file
from loratrack.store.place import database_file, store_folder, tracking_uri

OTHER_PORTS = 20
"""So many after the usual one are tried."""
SHUTDOWN_SECONDS = 2
LOOK_SECONDS = 1.0
"""How often a second server looks whether the first one has gone."""
REMEMBERED = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.panelOpen_v1": False,
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.detectIssues.guidanceShown_v1": True,
    "mlflow.flagForReview.guidanceShown_v1": True,
    "mlflow.home.getting-started.collapsed_v1": True,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
    "_mlflow_model_registry_promo_modal_dismissed_v1": True,
}
"""What MLflow 3.17 keeps in the browser, as after a first visit in the mode Model training."""
LIST = 'MLflowLocalStorage-1.1-ExperimentPage-["ID"]-ReactComponentState'
"""How MLflow's list of runs in an experiment was left."""
LIST_STATE = {
    "searchFilter": "",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
}
SCRIPT = """\
<script>
for (const [key, value] of Object.entries(REMEMBERED))
  if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
if (!location.hash || location.hash === "#/") location.replace(FIRST_PAGE);
</script>
"""


@dataclass(frozen=True)
class Place:
    """Where the pages will be."""

    listener: socket.socket
    host: str

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    @property
    def address(self) -> str:
        """As this machine reaches it."""
        host = {"0.0.0.0": HOST, "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def is_open(self) -> bool:
        """Whether other machines reach it."""
        return self.host not in (HOST, "localhost", "::1")


@contextmanager
def listen(host: str = HOST, port: int | None = None) -> Iterator[Place]:
    """The port, or without one 5000 or the next that is free; UserError when it is not to be had."""
    wanted = range(PORT, PORT + OTHER_PORTS) if port is None else [port]
    for number in wanted:
        try:
            listener = socket.create_server((host, number), family=_family(host))
        except OSError as error:  # a name that means no address has a number that is no errno
            fault = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
            continue
        with listener:
            yield Place(listener, host)
        return
    if port is None:
        raise UserError(f"--port: none of {wanted[0]} to {wanted[-1]} is free on {host} ({fault}); name one")
    raise UserError(f"--port: cannot listen on {host}:{port} ({fault}); leave it out to get a free one")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@dataclass(frozen=True)
class FirstPage:
    """Where `/` leads to."""

    path: str
    """The part of the address behind the host."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By experiment, what its list of runs shows besides the name: `metrics.best_f1`, `params.train.lr`."""

    @property
    def remembered(self) -> dict[str, object]:
        """What the browser is to remember where it remembers nothing yet."""
        columns = {each: list(map(_as_column, names)) for each, names in self.columns.items()}
        lists = {
            LIST.replace("ID", each): LIST_STATE | {"selectedColumns": columns[each]} for each in columns
        }
        return REMEMBERED | lists


def _as_column(name: str) -> str:
    kind, _, key = name.partition(".")
    return f"{kind}.`{key}`"


def serve(place: Place, first_page: Callable[[], FirstPage], opened: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `opened` is called when the pages are there.

    `first_page` is asked at each visit.
    """
    from loratrack.store.opening import initialise

    uri = tracking_uri()
    initialise(uri)
    os.environ.update(_settings(uri))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own use of Starlette is deprecated, four times over
        import uvicorn
        from mlflow.server import app as pages
        from mlflow.server.fastapi_app import app

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    index = Path(str(pages.static_folder), "index.html").read_text("utf-8")

    def first() -> str:
        page = first_page()
        values = {"REMEMBERED": page.remembered, "FIRST_PAGE": page.path}
        script = SCRIPT
        for name, value in values.items():
            script = script.replace(name, json.dumps(value).replace("<", "\\u003c"))
        return index.replace("<head>", f"<head>{script}", 1)

    pages.view_functions["serve"] = first

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            opened()

    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS
    )
    with _known_as(place.address):
        Server(settings).run([place.listener])


def _settings(uri: str) -> dict[str, str]:
    """What `mlflow ui` tells its workers, for one process without a runner of jobs."""
    from mlflow.server import constants

    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or str(store_folder() / ARTIFACTS)
    return {
        constants.BACKEND_STORE_URI_ENV_VAR: uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: os.environ.get("MLFLOW_REGISTRY_URI", uri),
        constants.ARTIFACT_ROOT_ENV_VAR: root,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: root,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@contextmanager
def _known_as(address: str) -> Iterator[None]:
    """While we serve, links lead here; to a second server of the same store once the first one has gone."""
    file = served_file()
    is_ours = database_file(tracking_uri()) is not None or file.parent.is_dir()
    if not is_ours or not os.access(file.parent, os.W_OK):
        yield
        return
    ended, held = threading.Event(), ExitStack()

    def try_it() -> bool:
        with suppress(PermissionError):  # the file of somebody else who shares the folder
            if (lock := try_lock(file)) is not None:
                held.enter_context(lock)
                lock.truncate(0)
                lock.write(address.encode())
                lock.flush()
                return True
        return False

    def try_on() -> None:
        while not ended.wait(LOOK_SECONDS) and not try_it():
            pass

    later = None if try_it() else threading.Thread(target=try_on, name="links", daemon=True)
    if later is not None:
        later.start()
    with held:
        try:
            yield
        finally:
            ended.set()
            if later is not None:
                later.join()
