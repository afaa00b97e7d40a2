"""Runs as a sequence and as a data frame: what `loratrack.runs` gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from loratrack.index.runs import StoredRun

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunList(Sequence[StoredRun]):
    """Runs in the order asked for."""

    items: tuple[StoredRun, ...]
    total: int
    """How many there are in all, with those that `limit` left out."""

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> StoredRun: ...

    @overload
    def __getitem__(self, index: slice) -> RunList: ...

    def __getitem__(self, index: int | slice) -> StoredRun | RunList:
        if isinstance(index, slice):
            return RunList(self.items[index], self.total)
        return self.items[index]

    def to_pandas(self) -> pd.DataFrame:
        """A row a run: its attributes, `params.…`, `tags.…` and `metrics.…` at the best epoch."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for run in self.items:
            summary = run.summary
            row: dict[str, Any] = {
                "run_id": summary.run_id,
                "exp_id": summary.exp_id,
                "status": summary.status,
                "experiment": summary.experiment,
                "started": pd.Timestamp(summary.started_ms, unit="ms", tz="UTC"),
                "duration_seconds": summary.duration_seconds,
                "versions": ", ".join(f"{each.model}/{each.number}" for each in run.versions),
            }
            row |= {f"metrics.{name}": run.best(name) for name in run.scores}
            row |= {f"metrics.{name}": value for name, value in run.metrics.items() if name not in run.scores}
            row |= {f"params.{name}": value for name, value in run.params.items()}
            row |= {
                f"tags.{name}": value for name, value in run.tags.items() if not name.startswith("mlflow.")
            }
            rows.append(row)
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        html: str = self.to_pandas().to_html()
        return html
