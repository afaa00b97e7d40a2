import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag

from loratrack.store.secrets import is_secret_name, scrub, scrub_text
from loratrack.tracking.environment import environment
from loratrack.tracking.writer import RunWriter

CANARY = "c4n4ry-Sq5x"

HIDDEN = [
    f"https://user:{CANARY}@host/x.git",
    f"https://{CANARY}@github.com/x.git",
    f"postgresql+psycopg2://me:{CANARY}@db:5432/mlflow",
    "hf_" + "c4n4ry" * 6,
    "AKIA" + "C4N4RY4444444444",
    "ghp_" + "c4n4ry" * 6,
    "github_pat_" + "c4n4ry" * 6,
    "sk-proj-" + "c4n4ry" * 6,
    "xoxb-123-c4n4ry-c4n4ry",
    "Authorization: Bearer c4n4ryc4n4ry1234",
    "-----BEGIN RSA PRIVATE KEY-----\nc4n4ry\n-----END RSA PRIVATE KEY-----",
    f"password={CANARY}",
    f"train --hub-token {CANARY} --lr 1",
    f"train --hub-token={CANARY}",
    f"'set=hub.token={CANARY};train.epochs=2'",
    f'{{"api_key": "{CANARY}", "x": 1}}',
    rf'"{{\"secret\": \"{CANARY}\"}}"',
    f"AWS_SECRET_ACCESS_KEY={CANARY}",
    f"?access_token={CANARY}&x=1",
    f"+  db_password: some words {CANARY}",
    f"    clientSecret = '{CANARY}'",
    f"MYSQL_PWD: {CANARY}",
]

KEPT = [
    "max_tokens: 128",
    "pad_token = '[PAD]'",
    "tokenizer: bert-base-chinese",
    "target_modules: [query, key, value]",
    "key: query",
    "git@github.com:team/project.git",
    "ssh://git@github.com/team/project.git",
    "https://huggingface.co/bert-base-chinese",
    "token = tokenizer.eos_token",
    "password: str",
    "token = read_token()",
    "the secret of a good model is its data",
    "sha256: 0123456789abcdef0123456789abcdef",
    "风险等级: 高风险",
    "basic authentication is off",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_secrets_are_hidden(text: str) -> None:
    hidden = scrub_text(text)
    assert "***" in hidden
    assert "c4n4ry" not in hidden.lower()
    assert scrub_text(hidden) == hidden


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub_text(text) == text


def test_only_the_secret_part_is_hidden() -> None:
    assert scrub_text(f"train --hub-token {CANARY} --lr 1") == "train --hub-token *** --lr 1"
    assert scrub_text(f"https://user:{CANARY}@host/x.git") == "https://***@host/x.git"


def test_names_decide_in_mappings_at_any_depth() -> None:
    nested = {"hub": {"token": CANARY, "name": "bert"}, "list": [{"password": CANARY}], "max_tokens": 8}
    assert scrub(nested) == {
        "hub": {"token": "***", "name": "bert"},
        "list": [{"password": "***"}],
        "max_tokens": 8,
    }


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "hubToken", "api-key", "DB_PASSWORD", "openaiApiKey", "PGPASSWORD"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["pad_token", "tokens", "tokenizer", "key", "primary_key", "token_count"])
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


def test_values_of_secret_variables_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_API_KEY", CANARY)
    assert scrub_text(f"see {CANARY}!") == "see ***!"


def test_no_canary_reaches_the_store(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment, git remote and diff, command line, --set values, params, tags, files, URIs."""
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (repository / "settings.yaml").write_text("lr: 1\n")
    remote = f"https://me:{CANARY}-remote@host/x.git"
    for command in ([*git, "init", "-q"], [*git, "add", "."], [*git, "commit", "-qm", "x"]):
        subprocess.run(command, check=True)
    subprocess.run([*git, "remote", "add", "origin", remote], check=True)
    (repository / "settings.yaml").write_text(f"lr: 1\npassword: {CANARY}-diff\n")
    monkeypatch.setenv("HF_TOKEN", f"{CANARY}-variable")
    monkeypatch.setattr("sys.argv", ["loratrack", "--set", f"hub.token={CANARY}-argv"])
    monkeypatch.setattr("sys.orig_argv", ["python", "loratrack", "--set", f"hub.token={CANARY}-argv"])
    files = tmp_path / "files"
    (files / "model").mkdir(parents=True)
    frozen = f"exp_id: a\ndescription: token={CANARY}-set\nextra: {CANARY}-variable\n"
    (files / "config_copy.yaml").write_text(frozen)
    (files / "model" / "config_copy.yaml").write_text(frozen)
    facts = environment()
    assert facts["git"]["remote"] == "https://***@host/x.git"
    assert "password: ***" in facts["git"]["diff"]
    assert facts["command"] == "python loratrack --set hub.token=***"
    (files / "env_info.json").write_text(str(facts))

    run = RunWriter.start(
        name="exp_v1",
        params={"hub.token": f"{CANARY}-param", "description": f"password={CANARY}-set"},
        tags={"origin": f"https://x:{CANARY}-tag@host", "note": f"with {CANARY}-variable"},
    )
    run.log_params({"source": f"s3://key:{CANARY}-uri@bucket"})
    run.log_dataset("d", f"https://me:{CANARY}-dataset@host/d.csv", "0" * 64, "training", 1)
    run.log_artifacts(files)
    spooled = searched(tmp_path / "mlruns" / "outbox")
    assert run.finish("KILLED")  # a finished run's rows would be gone before the search

    found = searched(tmp_path / "mlruns")
    for name in ("mlflow.db", "outbox.db", "env_info.json", "config_copy.yaml"):
        assert any(Path(file).name == name for file in found)
    assert any(Path(file).parts[-1] == "config_copy.yaml" for file in spooled)
    assert [file for file, content in (spooled | found).items() if CANARY.encode() in content] == []


def searched(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_mlflow_stored_itself_is_hidden_or_told(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = client.create_run(client.create_experiment("e")).info
    tags = [RunTag("mlflow.source.name", f"https://me:{CANARY}@host/x.git")]
    client.log_batch(made.run_id, params=[Param("set", f"hub.token={CANARY}")], tags=tags)
    monkeypatch.setenv("MLFLOW_RUN_ID", made.run_id)
    run = RunWriter.start(name="exp_v1", params={}, tags={})
    assert run.finish("FINISHED")
    assert client.get_run(made.run_id).data.tags["mlflow.source.name"] == "https://***@host/x.git"
    assert "param 'set' of run" in caplog.text
    assert CANARY not in caplog.text
