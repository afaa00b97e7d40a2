"""Which run the words of a command mean: one grammar for all of them.

find(tables, "clinc/3")            # the run behind a version; "clinc@champion", "models:/…" and "runs:/…" too
find(tables, "exp_v4")             # the newest run of this exp_id that has finished
find(tables, "0a1b2c")             # the run whose id begins so
"""

from __future__ import annotations

from loratrack.errors import RefusedError, UserError, did_you_mean, is_text
from loratrack.index.runs import RunSummary
from loratrack.index.search import parents, summaries
from loratrack.index.tables import Tables
from loratrack.store.client import RUN_ID_PREFIX
from loratrack.store.place import store_name

MODELS, RUNS = "models:/", "runs:/"
MODEL_WORDS = "RUN|EXP|VERSION"
"""How the help of a command calls them."""
MODEL_HELP = "NAME/3, NAME@alias, an exp_id for its newest finished run, or a run's id or its beginning"
MAX_LISTED = 5


def find(tables: Tables, text: str) -> RunSummary:
    """The run that `text` means. Of several runs of an exp_id the newest that has finished, else the newest,
    and trainings before sweeps and chains.

    RefusedError when there is none, UserError when a prefix is that of several.
    """
    version = version_in(tables, text)
    if version is not None:
        model, number = version
        query = "SELECT v.run_id FROM model_versions v WHERE v.name = :model AND v.version = :number"
        [(run_id,)] = tables.rows(query, model=model, number=number)
        runs = summaries(tables, "AND r.run_uuid = :text", text=run_id or "")
        if not runs:
            raise RefusedError(f"{text}: its run {run_id!r} is gone")
        return runs[0]
    words = text.removeprefix(RUNS)
    same = "AND (r.run_uuid = :text OR r.name = :text OR x.value = :text)"
    runs = summaries(tables, same, text=words) if is_text(words) else []
    if runs:
        parent_ids = parents(tables) - {words}
        return min(runs, key=lambda run: (run.run_id in parent_ids, run.status != "FINISHED"))
    if RUN_ID_PREFIX.fullmatch(words):
        # `g` comes after every hexadecimal digit, so these are the ids that begin with `words`.
        clause = "AND r.run_uuid > :text AND r.run_uuid < :end"
        runs = summaries(tables, clause, text=words, end=f"{words}g")
        if len(runs) > 1:
            listed = ", ".join(f"{summary.run_id} ({summary.exp_id})" for summary in runs[:MAX_LISTED])
            raise UserError(f"{text}: must be the beginning of one run's id, got {len(runs)}: {listed}")
        if runs:
            return runs[0]
    if words in _models(tables):
        raise UserError(f"{text}: must say which version, such as {words}/1 or {words}@champion")
    known = {summary.exp_id for summary in summaries(tables)}
    hint = did_you_mean(words, known) or "; loratrack compare lists all"
    raise RefusedError(f"{text}: no such run, exp_id or version in {store_name()}{hint}")


def newer(tables: Tables, run: RunSummary) -> RunSummary | None:
    """The newest run of the same exp_id, where that is another one."""
    same = summaries(tables, "AND x.value = :exp_id", exp_id=run.exp_id)
    return None if not same or same[0].run_id == run.run_id else same[0]


def version_in(tables: Tables, text: str) -> tuple[str, int] | None:
    """The model and number that `NAME/3`, `NAME@alias` or `NAME/Stage` mean; None for words of another kind.

    RefusedError when the model is there and has no such version, alias or stage.
    """
    words = text.removeprefix(MODELS)
    name, mark, place = words.rpartition("@" if "@" in words else "/")
    if not mark or not is_text(words) or name not in _models(tables):
        return None
    versions = tables.rows(
        "SELECT v.version, v.current_stage FROM model_versions v"
        " WHERE v.name = :name AND v.current_stage <> 'Deleted_Internal' ORDER BY v.version",
        name=name,
    )
    numbers = [int(number) for number, _ in versions]
    if mark == "@":
        query = "SELECT a.alias, a.version FROM registered_model_aliases a WHERE a.name = :name"
        known = {alias: int(number) for alias, number in tables.rows(query, name=name)}
    else:
        known = {str(number): number for number in numbers}
        known |= {str(stage): int(number) for number, stage in versions if stage not in (None, "None")}
    if place in known:
        return name, known[place]
    kind = "alias" if mark == "@" else "version"
    listed = ", ".join(list(known)[-MAX_LISTED:]) or "none"
    raise RefusedError(f"{text}: no such {kind}{did_you_mean(place, known)}; it has {listed}")


def _models(tables: Tables) -> set[str]:
    rows = tables.rows(
        "SELECT DISTINCT v.name FROM model_versions v WHERE v.current_stage <> 'Deleted_Internal'"
    )
    return {name for (name,) in rows}
