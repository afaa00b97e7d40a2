"""`loratrack ui`: MLflow's pages, opened on the runs."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from contextlib import suppress

from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import complain, console

ALLOWED_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "ui",
        help="open MLflow's pages on the runs",
        description="Serve MLflow's own pages of this store, opened on the runs of the newest experiment,"
        " until Ctrl-C. Where MLFLOW_TRACKING_URI names a server, that one is opened.",
        epilog=examples("loratrack ui", "loratrack ui --port 8080 --no-browser"),
    )
    parser.add_argument("--port", type=_port, metavar="N", help="default: 5000, or the next that is free")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="0.0.0.0 for all who reach this machine; default: 127.0.0.1. MLflow answers those who ask for a"
        f" name or a public address with 403, unless {ALLOWED_HOSTS} lists it",
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.index.search import newest_experiment, score_columns
    from loratrack.store import links, ui
    from loratrack.store.place import tracking_uri

    def path() -> str:
        return links.path_of_runs(newest_experiment())

    has_browser = not arguments.no_browser and (
        sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in DISPLAYS)
    )
    screen = console()

    def open_at(place: str) -> None:
        address = f"{place}{path()}"
        screen.print(address)
        if has_browser:
            webbrowser.open(address)

    if tracking_uri().startswith("http"):
        open_at(links.ui())
        return 0

    def first_page() -> ui.FirstPage:
        return ui.FirstPage(path(), score_columns())

    def opened() -> None:
        open_at(place.address)
        if place.is_open and not os.environ.get(ALLOWED_HOSTS):
            screen.print(
                "others may ask for a private IP address of this machine; for its name or a public address"
                f" begin with {ALLOWED_HOSTS}='localhost:*,127.0.0.1:*,NAME:*'"
            )
        screen.print("Ctrl-C ends it")

    with ui.listen(arguments.host, arguments.port) as place:
        if arguments.port is None and place.port != links.PORT:
            complain(f"port {links.PORT} is taken; using {place.port}")
        with suppress(KeyboardInterrupt):  # the way to end it
            ui.serve(place, first_page, opened)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 65535, got {text!r}")
    return int(text)
