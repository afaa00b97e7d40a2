"""Promotion with its gate: no version becomes champion before it was loaded and found to be what was trained.

    promote("clinc/3", condition="avg_f1 not worse than champion")
    rollback("clinc")                       # back to the champion before

`registry.promotion` moves aliases, and takes no move without a gate; this is the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loratrack.bases.trust import said_by_loader
from loratrack.errors import RefusedError, StoreError, UserError
from loratrack.registry import conditions, lookup, promotion, uri
from loratrack.registry.lookup import Candidate

PASSED = "passed: the reloaded model reproduces the training logits"


@dataclass(frozen=True)
class Promotion:
    """An alias that was moved."""

    model: str
    kind: str
    alias: str
    before: int | None
    after: int | None
    why: str
    who: str
    run_id: str
    """The run in the experiment `registry-events` that records the move."""
    findings: tuple[str, ...]
    """What the gate found, a line each."""
    repairs: tuple[str, ...]
    """What an earlier move had left undone, and was finished."""

    @property
    def version(self) -> str:
        return f"{self.model}/{self.after}"


def promote(
    version: str,
    *,
    model: str | None = None,
    to: str = promotion.CHAMPION,
    why: str = "",
    condition: str | None = None,
    expect: int | None = None,
    trust_remote_code: str | None = None,
) -> Promotion:
    """Make `version` champion (stage Production) or challenger (Staging).

    `version`: NAME/3, NAME@alias, a run's id or its beginning, or an exp_id for its newest finished run; a
    run that has no version yet gets one, of `model` or of the one that its config names, else its project's.
    `condition`: refuse unless it holds: `avg_f1>=0.93 and intent_f1 not worse than champion by 0.005`.
    `expect`: refuse unless this version has the alias now; 0 for none. RefusedError says what failed.
    `trust_remote_code`: the sha256 of the base whose code the gate may run; see bases/trust.py.
    """
    alias, trusted = promotion.alias_of(to), said_by_loader(trust_remote_code)
    findings: list[str] = []
    try:
        candidate = lookup.version_of(version, model)
    except lookup.UnregisteredError as error:
        from loratrack.experiments.registration import register  # opens torch, which a rollback does not

        candidate = lookup.version_of(register(error.run_id, model))
        findings.append(f"registered as {candidate}")
    aliases = promotion.aliases(candidate.model)
    before = aliases.get(alias)
    if expect is not None and (before or 0) != expect:
        raise RefusedError(
            f"{candidate.model}: {alias} must be {expect or 'none'} as --expect says,"
            f" got {before or 'none'}; look at loratrack history {candidate.model}"
        )
    if before == candidate.version:
        raise RefusedError(f"{candidate}: is {alias} already")

    def gate() -> None:
        findings.extend(judge(condition, candidate, aliases.get(promotion.CHAMPION)))
        findings.append(check_reload(candidate, trusted))

    move = promotion.promote(candidate.model, candidate.version, alias, expected=before, gate=gate, why=why)
    return _promotion(move, findings)


def rollback(
    model: str | None = None,
    *,
    exp_id: str | None = None,
    to: str | int | None = None,
    why: str = "",
    trust_remote_code: str | None = None,
) -> Promotion:
    """Back to the champion before, to the best version of an experiment, or to a version.

    A version that was never champion goes through the same gate as in `promote`.
    """
    trusted = said_by_loader(trust_remote_code)
    if exp_id is not None:
        candidate = lookup.best_version_of(exp_id, model)
    else:
        name = model or lookup.model_with_champion()
        candidate = lookup.version_of(str(promotion.previous_champion(name) if to is None else to), name)
    expected = promotion.aliases(candidate.model).get(promotion.CHAMPION)
    if expected == candidate.version:
        raise RefusedError(f"{candidate}: is champion already")
    if not lookup.has_files(candidate):
        raise RefusedError(f"{candidate}: its files are gone; name another version with --to")
    findings: list[str] = []
    move = promotion.rollback(
        candidate.model,
        candidate.version,
        expected=expected,
        gate=lambda: findings.append(check_reload(candidate, trusted)),
        why=why,
    )
    return _promotion(move, findings)


def check_reload(candidate: Candidate, trusted: frozenset[str]) -> str:
    """Load the version from where the registry keeps it; RefusedError unless it still is what was trained."""
    from loratrack.serving.classifier import check_probe

    try:
        check_probe(uri.fetch(f"models:/{candidate}"), trusted)
    except StoreError:
        raise
    except UserError as error:
        raise RefusedError(f"{candidate}: is not fit to serve: {error}") from error
    return PASSED


def judge(condition: str | None, candidate: Candidate, champion: int | None) -> tuple[str, ...]:
    """What was found of the condition, a line for each part; RefusedError when it fails."""
    if condition is None:
        return ()
    other = None
    if champion is not None and "champion" in condition.lower():
        other = lookup.metrics_of(lookup.version_of(f"{candidate.model}/{champion}"))
    verdict = conditions.judge(condition, lookup.metrics_of(candidate), other)
    if not verdict.is_met:
        raise RefusedError("\n  ".join([f"{candidate}: does not meet --if", *verdict.findings]))
    return verdict.findings


def _promotion(move: promotion.Move, findings: Sequence[str]) -> Promotion:
    event = move.event
    return Promotion(
        model=event.model,
        kind=event.kind,
        alias=event.alias or "",
        before=event.before,
        after=event.after,
        why=event.why,
        who=event.who,
        run_id=event.run_id,
        findings=tuple(findings),
        repairs=move.repairs,
    )
