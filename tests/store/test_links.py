"""Links lead to the `loratrack ui` that serves this store, and to no other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from loratrack.disk import try_lock
from loratrack.store import links

USUAL = "http://127.0.0.1:5000"


def test_links_lead_to_the_server_of_this_store_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stores that share a folder are told apart: two files in it, or two servers of PostgreSQL."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    uris = [f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{tmp_path}/other.db"]
    uris += ["postgresql://me:secret@host/one", "postgresql://me:secret@host/two"]
    for uri in uris:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        lock = try_lock(links.served_file())
        assert lock is not None
        with lock:
            lock.write(b"http://127.0.0.1:5003")
            lock.flush()
            found = {}
            for each in uris:
                monkeypatch.setenv("MLFLOW_TRACKING_URI", each)
                found[each] = links.ui()
        assert found == {each: "http://127.0.0.1:5003" if each == uri else USUAL for each in uris}
    assert (tmp_path / "ui.address").is_file()
