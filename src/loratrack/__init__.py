"""Fine-tune many LoRA models and keep track of every one: `import loratrack as lt`; see `loratrack.api`."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from loratrack.api import (
        Classifier,
        Lines,
        Promotion,
        Reproduction,
        Result,
        RunList,
        Sweep,
        Training,
        UserError,
        Watcher,
        check,
        history,
        load,
        promote,
        reproduce,
        resume,
        rollback,
        runs,
        sweep,
        train,
    )

__all__ = [
    "Classifier",
    "Lines",
    "Promotion",
    "Reproduction",
    "Result",
    "RunList",
    "Sweep",
    "Training",
    "UserError",
    "Watcher",
    "check",
    "history",
    "load",
    "promote",
    "reproduce",
    "resume",
    "rollback",
    "runs",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """Importing loratrack opens neither torch nor MLflow (PEP 562)."""
    if name in __all__:
        from loratrack import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
