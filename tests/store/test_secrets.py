import subprocess
import time
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
    "SG." + "c4n4ry" * 3 + "." + "c4n4ry" * 3,
    "ya29." + "c4n4ry" * 4,
    "hvs." + "c4n4ry" * 4,
    "ATATT3x" + "c4n4ry" * 4,
    "dckr_pat_" + "c4n4ry" * 4,
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\nc4n4ry\n-----END PGP PRIVATE KEY BLOCK-----",
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
    f'os.environ["HF_TOKEN"] = "{CANARY}"',
    f"+os.environ['WANDB_API_KEY']='{CANARY}'",
    f'os.environ.setdefault("HF_TOKEN", "{CANARY}")',
    f'headers = {{"Authorization": "Token {CANARY}"}}',
    f"-H 'Authorization: Basic {CANARY}'",
    f'set_token("{CANARY}")',
    f'SECRET = f"{CANARY}"',
    f"""note: "the old one was password='{CANARY}'" """,
    "https://hooks.slack.com/services/T01/B02/c4n4ryc4n4ry",
    "https://discord.com/api/webhooks/123/c4n4ryc4n4ry",
    "https://oapi.dingtalk.com/robot/send?access_token=c4n4ry",
    "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=c4n4ry-1",
    "https://open.feishu.cn/open-apis/bot/v2/hook/c4n4ry-1",
    "https://api.telegram.org/bot123:c4n4ry/sendMessage",
    f"s3://bucket/a.csv?X-Amz-Signature={CANARY}&X-Amz-Date=1",
    f"https://x.blob.core.windows.net/a.csv?sv=2024&sig={CANARY}%3D",
    f"read with sig={CANARY}",
    f"curl -u me:{CANARY} https://host",
    f"curl https://host --user 'me:{CANARY}'",
    f"mysql -u me -p{CANARY} reviews",
    f"sshpass -p {CANARY} ssh host",
    f"redis-cli -h host -a {CANARY}",
    f"Cookie: session={CANARY}; lang=de",
    f"passcode: {CANARY}",
    f"pw={CANARY}",
    f"pin={CANARY}",
    f"PAT: {CANARY}{CANARY}",
    f"auth: {CANARY}{CANARY}",
    f"my api key {CANARY}{CANARY} works",
    f"密码：{CANARY}",
    f"数据库密码: {CANARY}",
    f"口令 {CANARY}",
    f"密码是{CANARY}",
    f"AccountKey={CANARY};EndpointSuffix=core",
]

NUMBERS = ["passcode: 48214", "密码：48214", "pin=48214", "password=48214"]


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
    "basic LoRA-r16 run",
    "basic baseline_v2",
    "basic 128-token",
    "basic exp_v4_double_label",
    "sk-learn-baseline-comparison",
    "data/sk-slovak-reviews-2024.csv",
    "data/hf_customerfeedbackreviews.csv",
    "/models/sk-roberta-base-finetuned",
    "key token = cls",
    "pin_memory=True",
    "we pin PyTorch to 2.9",
    "a secret DeBERTa recipe, token RoBERTa-large",
    "sig=0.05, pw=0.5",
    "auth: oauth2",
    "docker run -u 1000:1000 image",
    "cookie: the reviews of bakeries",
    "tokens: 2048",
    "密码学课程: 高",
    "the bearer of good news",
    "https://hooks.slack.com is their address",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_secrets_are_hidden(text: str) -> None:
    hidden = scrub_text(text)
    assert "***" in hidden
    assert "c4n4ry" not in hidden.lower()
    assert scrub_text(hidden) == hidden


@pytest.mark.parametrize("text", NUMBERS)
def test_a_password_may_be_a_number(text: str) -> None:
    assert "48214" not in scrub_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 50_000,
        "+\n" * 50_000,
        "key" * 17_000,
        "key=" * 12_000,
        "token: abc\n" * 20_000,
        "eyJaaaaaaaaa-" * 20_000,
        "k='token=\"" * 20_000,
        "curl -u " * 30_000,
        "cookie: " + "a=a;" * 50_000,
        "aa://" * 40_000,
        "-----BEGIN PRIVATE KEY" * 10_000,
        'key="' * 40_000,
        "+    model = load(path, token=None)  # a line of a diff\n" * 20_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_hiding_takes_time_in_proportion_to_the_text(text: str) -> None:
    """The processor's time of the whole is no more than that of its quarters, some noise allowed."""
    quarter = text[: len(text) // 4]
    scrub_text(quarter)
    started = time.process_time()
    for _ in range(4):
        scrub_text(quarter)
    quarters = time.process_time() - started
    started = time.process_time()
    scrub_text(text)
    assert time.process_time() - started < 3 * quarters + 0.2


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
    files.mkdir()
    (files / "config_copy.yaml").write_text("exp_id: a\ndescription: token=sealed\n")
    facts = environment()
    assert facts["git"]["remote"] == "https://***@host/x.git"
    assert "password: ***" in facts["git"]["diff"]
    assert facts["command"] == "python loratrack --set hub.token=***"
    (files / "env_info.json").write_text(str(facts))

    run = RunWriter.start(
        name="exp_v1",
        params={
            "data.label_columns.token": "cls",
            "origin": f"token={CANARY}-param",
            "description": f"password={CANARY}-set",
        },
        tags={"origin": f"https://x:{CANARY}-tag@host", "note": f"with {CANARY}-variable"},
    )
    run.log_params({"source": f"s3://key:{CANARY}-uri@bucket"})
    run.log_dataset("d", f"https://me:{CANARY}-dataset@host/d.csv", "0" * 64, "training", 1)
    run.log_artifacts(files)
    spooled = searched(tmp_path / "mlruns" / "outbox")
    assert run.finish("KILLED")  # a finished run's rows would be gone before the search

    found = searched(tmp_path / "mlruns")
    for name in ("mlflow.db", "outbox.db", "env_info.json"):
        assert any(Path(file).name == name for file in found)
    for kept in (spooled, found):  # sealed by its sha256, so no byte of it may change
        [copy] = [content for file, content in kept.items() if Path(file).name == "config_copy.yaml"]
        assert copy == (files / "config_copy.yaml").read_bytes()
    assert client.get_run(run.run_id).data.params["data.label_columns.token"] == "cls"
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
