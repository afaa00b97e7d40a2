"""One registered model in small questions, each as quick among ten thousand versions as among ten.

MLflow reads all versions whenever it is asked for a model, and its client asks before each write whether
the model is a prompt: 0.4 s each at 10,000 versions. So versions are asked for by alias and number, and
writing goes past that question.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from loratrack.errors import RefusedError, did_you_mean
from loratrack.index.opened import open_tables
from loratrack.index.tables import DATABASES
from loratrack.store.client import (
    MISSING,
    Client,
    ModelVersion,
    RegisteredModel,
    RegistryClient,
    connect,
    pages,
    quoted,
)
from loratrack.store.place import SQLITE, tracking_uri
from loratrack.store.relocation import here

MAX_NUMBERS = 20


class Model:
    """A registered model; the store's errors come as MlflowException.

    Without a client `aliases`, `has` and `in_stages` read the store's tables, and nothing can be written.
    """

    def __init__(self, client: Client | None, name: str) -> None:
        self.name, self._client = name, client

    @property
    def _server(self) -> Client:
        assert self._client is not None, "opened to read only"
        return self._client

    @property
    def _writer(self) -> RegistryClient:
        return self._server._get_registry_client()

    def aliases(self, aliases: Iterable[str]) -> dict[str, int]:
        """The version at each of these aliases that exists; RefusedError where there is no such model."""
        if self._client is None:
            with open_tables() as tables:
                rows = tables.rows(
                    "SELECT a.alias, a.version FROM registered_model_aliases a WHERE a.name = :name",
                    name=self.name,
                )
            versions = {alias: int(version) for alias, version in rows}
            if not versions:
                self._refuse_missing()
            return {alias: versions[alias] for alias in aliases if alias in versions}
        versions = {alias: version for alias in aliases if (version := self._at(alias)) is not None}
        if not versions and not self._server.search_model_versions(
            f"name = {quoted(self.name)}", max_results=1
        ):
            self._refuse_missing()
        return versions

    def has(self, version: int) -> bool:
        if self._client is None:
            return version in self.in_stages((), also=[version])
        with if_there():
            self._server.get_model_version(self.name, str(version))
            return True
        return False

    def numbers(self) -> str:
        """Its newest versions, for a message."""
        newest = self._server.search_model_versions(
            f"name = {quoted(self.name)}", max_results=MAX_NUMBERS + 1, order_by=["version_number DESC"]
        )
        numbers = sorted(int(each.version) for each in newest)
        more = "…, " if len(numbers) > MAX_NUMBERS else ""
        return more + ", ".join(map(str, numbers[-MAX_NUMBERS:])) if numbers else "none"

    def in_stages(self, stages: Iterable[str], also: Iterable[int]) -> dict[int, str]:
        """The stage of each version in one of the stages, and of the versions in `also`."""
        names_of_stages, numbers = set(stages), set(also)
        if not _is_database():
            versions = pages(
                lambda token: self._server.search_model_versions(
                    f"name = {quoted(self.name)}", page_token=token
                )
            )
            rows = [(int(each.version), each.current_stage) for each in versions]
            return {n: stage for n, stage in sorted(rows) if stage in names_of_stages or n in numbers}
        with open_tables() as tables:
            rows = tables.rows(
                "SELECT v.version, v.current_stage FROM model_versions v"
                " WHERE v.name = :name AND v.current_stage <> 'Deleted_Internal'"
                f" AND (v.current_stage IN ({', '.join(map(repr, sorted(names_of_stages))) or 'NULL'})"
                f" OR v.version IN ({', '.join(map(str, numbers)) or 'NULL'})) ORDER BY v.version",
                name=self.name,
            )
        return {int(number): stage for number, stage in rows}

    def newest(self) -> int | None:
        """None where there is no version, or no such model."""
        found = self._server.search_model_versions(
            f"name = {quoted(self.name)}", max_results=1, order_by=["version_number DESC"]
        )
        return next((int(each.version) for each in found), None)

    def version(self, number: int) -> ModelVersion:
        return self._server.get_model_version(self.name, str(number))

    def describe(self, version: int, text: str) -> None:
        self._writer.update_model_version(self.name, str(version), text)

    def set_stage(self, version: int, stage: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, and asked for
            self._writer.transition_model_version_stage(self.name, str(version), stage, False)

    def set_alias(self, alias: str, version: int) -> None:
        self._writer.set_registered_model_alias(self.name, alias, str(version))

    def drop_alias(self, alias: str) -> None:
        self._writer.delete_registered_model_alias(self.name, alias)

    def delete(self, version: int) -> None:
        self._writer.delete_model_version(self.name, str(version))

    def source(self, version: int) -> str:
        """The address of its files."""
        return here(str(self._writer.get_model_version_download_uri(self.name, str(version))))

    def _at(self, alias: str) -> int | None:
        from mlflow.exceptions import MlflowException

        try:
            return int(self._server.get_model_version_by_alias(self.name, alias).version)
        except MlflowException as error:
            if error.error_code not in MISSING:
                raise
            return None

    def _refuse_missing(self) -> None:
        models = names(self._client)
        if self.name in models:
            return
        has = f"; the registry has {', '.join(models)}" if models else "; the registry is empty"
        close = did_you_mean(self.name, models)
        raise RefusedError(f"{self.name!r}: no such registered model{close or has}")


def models(client: Client) -> Iterator[RegisteredModel]:
    return pages(lambda token: client.search_registered_models(page_token=token))


def names(client: Client | None) -> list[str]:
    """Of all registered models."""
    if not _is_database():
        return sorted(each.name for each in models(client or connect()))
    with open_tables() as tables:
        return [name for (name,) in tables.rows("SELECT m.name FROM registered_models m ORDER BY m.name")]


def with_alias(client: Client, alias: str) -> list[str]:
    """The models that have it."""
    if not _is_database():
        return sorted(each.name for each in models(client) if alias in each.aliases)
    query = "SELECT a.name FROM registered_model_aliases a WHERE a.alias = :alias ORDER BY a.name"
    with open_tables() as tables:
        return [name for (name,) in tables.rows(query, alias=alias)]


@contextmanager
def if_there() -> Iterator[None]:
    """Ignore that something is not in the registry."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise


def client_to_read() -> Client | None:
    """None where the tables are within reach: reading them needs no MLflow, which takes seconds to import."""
    return None if tracking_uri().startswith((SQLITE, *DATABASES)) else connect()


def _is_database() -> bool:
    """Whether the tables can be asked, so that a question need not go over all versions."""
    return not tracking_uri().startswith("http")
