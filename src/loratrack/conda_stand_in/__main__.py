"""What `conda` answers here: the environment we are in when it will do, else one built by uv or pip."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from loratrack.conda_stand_in.build import build, is_whole
from loratrack.conda_stand_in.requirements import read
from loratrack.errors import UserError
from loratrack.places import cache_folder


def main(arguments: Sequence[str]) -> int:
    """Answer one call; 1 when it cannot be answered, with the reason on standard error."""
    asked = _parser().parse_args(arguments)
    try:
        print(asked.answer(asked))  # noqa: T201 -- MLflow reads the answer
    except UserError as error:
        print(f"loratrack, in place of conda: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="conda", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    activate = verbs.add_parser("activate", help="the folder of an environment")
    activate.add_argument("name")
    activate.set_defaults(answer=lambda asked: _link(asked.name).readlink())
    env = verbs.add_parser("env").add_subparsers(required=True)
    env_list = env.add_parser("list", help="none, so that MLflow has each environment checked anew")
    env_list.add_argument("--json", action="store_true")
    env_list.set_defaults(answer=lambda asked: '{"envs": []}')
    create = env.add_parser("create", help="choose or build the environment of a conda.yaml")
    create.add_argument("-n", dest="name", required=True)
    create.add_argument("--file", type=Path, required=True)
    create.set_defaults(answer=lambda asked: _create(asked.name, asked.file))
    return parser


def _create(name: str, file: Path) -> str:
    """Make `activate name` lead to an environment that satisfies `file`; says in a line which."""
    requirements = read(file)
    faults = requirements.faults()
    if not faults:
        _point(_link(name), Path(sys.prefix))
        return f"loratrack: no conda here; {sys.prefix} satisfies {file.name} and is used"
    home = _environments() / f"built-{requirements.digest()}"
    tool = "uv" if shutil.which("uv") else "venv and pip"
    how = f"using {home}" if is_whole(home) else f"building {home} with {tool}, which takes minutes"
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    reason = f"loratrack: no conda here; {sys.prefix} does not satisfy {file.name} ({faults[0]}{more})"
    print(f"{reason}: run make setup to mend that; until then {how}", flush=True)  # noqa: T201
    build(home, requirements)
    _point(_link(name), home)
    return f"loratrack: {home} is ready"


def _link(name: str) -> Path:
    """Two environments of ours may serve one conda.yaml, so each python has its own names."""
    return _environments() / f"{name}-{hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]}"


def _point(link: Path, folder: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    draft = link.with_name(f"{link.name}.{os.getpid()}")
    draft.symlink_to(folder)
    draft.replace(link)


def _environments() -> Path:
    return cache_folder() / "environments"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
