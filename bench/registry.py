"""What a move in the registry costs: `loratrack promote` and `rollback`, the reload check apart.

    python bench/registry.py [VERSIONS]

Fills a SQLite store with so many runs, each a version of one registered model, and prints median
milliseconds.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench.tracking import exp_id, fill, report, run_id, use

MOVES_BEFORE = 100


def main() -> None:
    num_versions = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="registry-bench-") as folder:
        os.environ["XDG_DATA_HOME"] = folder
        use(f"sqlite:///{folder}/mlflow.db")
        fill(Path(folder, "mlflow.db"), num_versions)
        finish(Path(folder, "mlflow.db"), num_versions)
        measure(num_versions)


def finish(file: Path, num_versions: int) -> None:
    """What `run` adds to a version: its tags and its files."""
    source = file.parent / "model"
    source.mkdir()
    (source / "MLmodel").write_text("")
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE model_versions SET source = ?", (str(source),))
        rows = [(n + 1, "exp_id", exp_id(n)) for n in range(num_versions)]
        rows += [(n + 1, "best_avg_f1", f"{(n * 7919 % 1000) / 1000}") for n in range(num_versions)]
        database.executemany(
            "INSERT INTO model_version_tags(name, version, key, value) VALUES ('clinc',?,?,?)", rows
        )


def measure(num_versions: int) -> None:
    from loratrack.experiments import promotion

    promotion.check_reload = lambda candidate, trusted: "not checked"
    number = itertools.count(num_versions // 4, 10)
    print(f"\n{f'SQLite, {num_versions:,} versions of one model, ms':<58}{'median':>9}{'max':>9}{'CPU':>9}")
    by_version = command(lambda: ("promote", f"clinc/{next(number)}"))
    report("promote NAME/VERSION", by_version)
    report("promote RUN", command(lambda: ("promote", run_id(next(number)))))
    report("promote EXP (its best version)", command(lambda: ("promote", exp_id(next(number)))))
    condition = "avg_f1>=0 and avg_f1 not worse than champion by 1"
    report("promote --if", command(lambda: ("promote", f"clinc/{next(number)}", "--if", condition)))
    report("rollback", command(lambda: ("rollback",)))
    report("history", command(lambda: ("history", "clinc")))
    for _ in range(MOVES_BEFORE):
        by_version()
    print(f"after {MOVES_BEFORE} more moves")
    report("promote NAME/VERSION", by_version)
    report("rollback", command(lambda: ("rollback",)))
    report("history", command(lambda: ("history", "clinc")))


def command(words: Callable[[], tuple[str, ...]]) -> Callable[[], object]:
    from loratrack.cli import main as loratrack

    def call() -> None:
        said = words()
        with contextlib.redirect_stdout(io.StringIO()):
            assert loratrack(said) == 0, said

    return call


if __name__ == "__main__":
    main()
