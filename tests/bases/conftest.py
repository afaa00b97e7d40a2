"""A tiny base on disk, and a small hub on this machine that serves such bases."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import close_session, constants
from transformers import BertConfig, BertForMaskedLM, set_seed

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film")


@pytest.fixture(scope="session")
def tiny_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    set_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture
def tiny(tiny_original: Path, tmp_path: Path) -> Path:
    """A whole base that a test may spoil."""
    return Path(shutil.copytree(tiny_original, tmp_path / "tiny"))


class Hub:
    """What the hub answers to huggingface_hub, over the files in memory."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.gated: set[str] = set()
        self.status = 200
        self.page = b""
        """Answered to everything when set, as a captive portal does."""
        self.silent = threading.Event()
        """Set: requests are taken, and the connection is closed without an answer after two seconds."""
        self.cut = ""
        """The file whose download breaks off in the middle."""
        self.over = threading.Event()

    def add(self, name: str, folder: Path) -> None:
        self.models[name] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def commit(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.models[name].items())).encode()).hexdigest()


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.silent.is_set():
            self.hub.over.wait(timeout=2)
            self.close_connection = True
        elif self.hub.status != 200 or self.hub.page:
            self._send(self.hub.status, self.hub.page)
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        else:
            self._file(*path[1:].split("/resolve/"))

    def _api(self, path: str) -> None:
        name = path.split("/revision/")[0].split("/tree/")[0]
        files = self.hub.models.get(name)
        if files is None:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": file, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for file, body in files.items()
            ]
            return self._send(200, json.dumps(tree).encode())
        info = {
            "id": name,
            "sha": self.hub.commit(name),
            "siblings": [{"rfilename": file} for file in files],
        }
        return self._send(200, json.dumps(info).encode())

    def _file(self, name: str, place: str) -> None:
        if name in self.hub.gated:
            return self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        file = place.partition("/")[2]
        body = self.hub.models[name][file]
        facts = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": self.hub.commit(name)}
        if self.hub.cut == file and self.command == "GET":
            return self._break_off(body)
        return self._send(200, body, facts)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _break_off(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        # A reset, not an orderly end: huggingface_hub would try that one again for many seconds.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are part of the tests


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that huggingface_hub asks as if HF_ENDPOINT named it, with an empty local cache."""
    hub = Hub()
    server = Server(("127.0.0.1", 0), type("AnswersOfThis", (Answers,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    point_at(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "hub-cache")
    yield hub
    hub.over.set()
    close_session()
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a hub that refuses every connection."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    point_at(monkeypatch, address, tmp_path / "hub-cache")
    yield address
    close_session()


def point_at(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """What the variables HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE set when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
