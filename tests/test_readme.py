"""README and docs hold what they say: every command runs, every setting, room and link exists."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import mlflow.cli
import pytest
import yaml
from pydantic import BaseModel
from tests.test_architecture import ROOMS, SOURCE

from loratrack import cli, places
from loratrack.config import RunConfig, load
from loratrack.config.sweep import SweepConfig, load_sweep

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text("utf-8")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "projects").glob("*/README.md")]
ROWS_KEPT = 120
QUESTIONS = ("compare", "show")
MOVES = ("promote", "rollback", "history", "registry")
LITTLE = ("predict", "cache", "sync")
BEFORE = ("init", "check")
AFTERWARDS = ("reproduce", "restore", "doctor", "register")
START_SECONDS = 90


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


SHOWN = [line for block in blocks("sh") for line in block.splitlines() if not line.startswith("#")]
WORDS = [shlex.split(line, comments=True) for line in SHOWN]


def shown(*start: str) -> list[list[str]]:
    """The commands of README that start with these words, without them."""
    return [words[len(start) :] for words in WORDS if tuple(words[: len(start)]) == start]


def test_every_command_shown_is_run_or_checked_below() -> None:
    known = [
        *(
            ("loratrack", name)
            for name in (
                "run",
                "resume",
                "sweep",
                *QUESTIONS,
                *MOVES,
                *AFTERWARDS,
                *LITTLE,
                *BEFORE,
                "ui",
                "completion",
            )
        ),
        *(("mlflow", name) for name in ("run", "server")),
        ("mlflow", "models", "serve"),
        *((name,) for name in ("make", "source", "export", "curl")),
    ]
    for words in WORDS:
        assert any(tuple(words[: len(start)]) == start for start in known), words
    assert all(shown(*start) for start in known)


def test_every_command_of_ours_is_shown() -> None:
    choices = next(a.choices for a in cli.parser()._actions if isinstance(a.choices, dict))
    assert sorted(name for name in choices if not shown("loratrack", name)) == []


def test_the_chinese_readme_shows_the_same_commands_settings_and_links() -> None:
    english, chinese = README, (ROOT / "README.zh.md").read_text("utf-8")
    fenced = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    assert fenced.findall(chinese) == fenced.findall(english)
    pair = re.compile(r"^\| (`[\w.]+` \| \S+) \|", re.MULTILINE)
    assert pair.findall(chinese.replace("*必填*", "*required*")) == pair.findall(english)
    assert set(files_linked(chinese)) - {"README.md"} == set(files_linked(english)) - {"README.zh.md"}


def files_linked(page: str) -> list[str]:
    return [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page) if link[0] != "#"]


def test_the_first_config_shown_is_that_of_the_demo() -> None:
    assert blocks("yaml")[0] == "# projects/clinc/dual.yaml\n" + (
        ROOT / "projects" / "clinc" / "dual.yaml"
    ).read_text("utf-8")


@pytest.fixture(scope="module")
def here(new_project: Callable[[], Any], sample: Any) -> Iterator[Any]:
    """A copy of the project with fewer rows, entered, with a store of its own."""
    project = new_project()
    for file in project.folder.glob("projects/*/data/**/*.csv"):
        shorten(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        patch.setenv("MLFLOW_TRACKING_URI", places.database_uri(project.store))
        patch.setenv("TINY_BASE", str(sample.base))
        yield project


def shorten(file: Path) -> None:
    """Some rows from all over it, of two intents of two domains where it is CLINC150's."""
    with file.open(encoding="utf-8", newline="") as opened:
        header, *rows = csv.reader(opened)
    kept = {"balance", "transfer", "weather", "alarm"}
    rows = [row for row in rows if "label_intent" not in header or kept & set(row)]
    rows = rows[:: max(1, len(rows) // ROWS_KEPT)]
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])


def train(words: list[str], *more: str) -> None:
    """`loratrack run …` or `sweep …`, for one epoch and on a tiny base where the command names none."""
    named = any("model.arch" in word for word in words)
    tiny = [] if named else [f"model.arch={os.environ['TINY_BASE']}", "data.max_len=64"]
    if any("clinc" in word for word in words):  # named, for in one epoch it may learn nothing
        tiny.append("register=clinc")
    settings = [word for setting in ("train.epochs=1", *tiny, *more) for word in ("--set", setting)]
    assert cli.main([*words, *settings]) == 0, words


def project_command(words: list[str]) -> list[str]:
    """What MLproject makes of `mlflow run . -P …`."""
    context = mlflow.cli.cli.commands["run"].make_context("run", list(words))
    assert context.params["uri"] == "."
    entries = yaml.safe_load(Path("MLproject").read_text("utf-8"))["entry_points"]
    entry = entries[context.params["entry_point"]]
    given = dict(text.split("=", 1) for text in context.params["param_list"])
    assert set(given) <= set(entry["parameters"])
    filled = {"set": "", "resume": "never", **given}
    command = entry["command"].format(**{key: shlex.quote(value) for key, value in filled.items()})
    return shlex.split(command)[1:]


def commands(name: str) -> list[list[str]]:
    """All that README shows of `loratrack NAME`, also by way of `mlflow run .`, in its order.

    `mlflow run` from another folder is run in tests/end_to_end/test_projects.py.
    """
    through_mlflow = ["mlflow", "run", "."]
    ours = [
        project_command(words[2:]) if words[:3] == through_mlflow else words[1:]
        for words in WORDS
        if words[:3] == through_mlflow or words[0] == "loratrack"
    ]
    return [words for words in ours if words[:1] == [name]]


@pytest.fixture(scope="module")
def trained(here: Any) -> str:
    """All trainings that README shows, in its order; the id of the first run."""
    for words in commands("init"):  # which fails where the file is there already
        Path(words[words.index("--out") + 1]).unlink(missing_ok=True)
        assert cli.main(words) == 0
    for words in commands("run"):
        train(words)
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    versions = client.search_model_versions("name = 'clinc'")
    return str(min(versions, key=lambda version: int(version.version)).run_id)


@pytest.mark.slow
def test_the_trainings_run(trained: str, here: Any) -> None:
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert len(runs) == len(commands("run")) > 3
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_what_comes_before_a_training_is_shown(here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands("init"):
        Path(words[words.index("--out") + 1]).unlink(missing_ok=True)
        assert cli.main(words) == 0
    for words in commands("check"):
        assert cli.main(words) == 0
    assert "train_double_label (double_cls): no problems" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_stopped_and_goes_on(trained: str, here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    [words] = commands("resume")
    exp_id = words[1]
    demo = next(words for words in commands("run") if any("clinc/dual" in word for word in words))
    settings = ["train.epochs=100000", f"model.arch={os.environ['TINY_BASE']}", "data.max_len=64"]
    more = [word for setting in settings for word in ("--set", setting)]
    process = here.start("loratrack", *demo, *more)
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.communicate()[0]
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert "go on with: loratrack resume " in rest
    assert cli.main(["compare", "--all"]) == 0
    assert re.search(
        rf"^{exp_id} .*stopped at epoch \d+\.\d of 100000", capsys.readouterr().out, re.MULTILINE
    )
    assert cli.main([*words, "--end"]) == 0
    assert re.search(r"^attempt 2 goes on at epoch \d", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
def test_runs_are_found_and_shown(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in QUESTIONS:
        for words in shown("loratrack", name):
            assert cli.main([name, *words]) == 0, words
            assert "clinc_dual" in capsys.readouterr().out


@pytest.mark.slow
def test_versions_are_moved(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in [words[1:] for words in WORDS if words[1:2] and words[1] in MOVES]:
        assert cli.main(words) == 0, capsys.readouterr()
    champion = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_model_version_by_alias
    assert int(champion("clinc", "champion").version) == 1
    assert "to see that it works" in capsys.readouterr().out


@pytest.mark.slow
def test_a_program_does_the_same(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of Python, as they stand but for the base and the epochs; they follow the promotions."""
    programs = blocks("python")
    assert len(programs) == 2
    tiny = f'"train.epochs=1", "register=clinc", "model.arch={os.environ["TINY_BASE"]}"'
    assert '"train.epochs=2"' in programs[0]
    first = programs[0].replace('"train.epochs=2"', tiny)
    second = (
        programs[1]
        .replace('questions.yaml")', f'questions.yaml", {tiny})')
        .replace("lt.train(", "lt.train(lt.load(", 1)
    )
    second = second.replace(f"{tiny})", f"{tiny}))", 1)
    for program in (first, second):
        exec(compile(program, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "\nrollback " in out
    assert "True ()" in out
    assert "lora_A" in out


@pytest.mark.slow
def test_a_run_is_made_again(trained: str, here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words in [words[1:] for words in WORDS if words[1:2] and words[1] in AFTERWARDS]:
        ends_well = (0, 1) if words[:1] == ["doctor"] else (0,)  # 1: it found something, on this machine
        assert cli.main(words) in ends_well, capsys.readouterr()
    assert "Downloading" not in capsys.readouterr().err
    assert (here.folder / "restored" / "config_copy.yaml").is_file()


@pytest.mark.slow
def test_a_sweep_runs_and_goes_on(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = commands("sweep")
    train(first, "sweep.trials=2", "sweep.parallel=2")
    for words in others:
        if words[1] == "show":
            assert cli.main(words) == 0
        else:
            train(words, "sweep.trials=3", "sweep.parallel=1")
    assert "best trial" in capsys.readouterr().out


@pytest.mark.slow
def test_predictions_come(trained: str, here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words in shown("loratrack", "predict"):
        assert cli.main(["predict", *(word.replace("RUN_ID", trained) for word in words)]) == 0
    answers = capsys.readouterr().out
    assert "how much money do i have in the bank\n  domain: " in answers
    assert "will it rain tomorrow\n  domain: " in answers
    assert (here.folder / "answers.csv").read_text("utf-8").startswith('"text","domain","intent"')


@pytest.mark.slow
def test_the_small_commands_run(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in [*shown("loratrack", "cache"), *shown("loratrack", "sync")]:
        name = "sync" if not words else "cache"
        assert cli.main([name, *words]) == 0
    assert "entries" in capsys.readouterr().out


@pytest.mark.slow
def test_the_model_is_served(trained: str, here: Any) -> None:
    (words,), (curl,) = shown("mlflow", "models", "serve"), shown("curl")
    (body,) = [word for word in curl if word.startswith("{")]
    (address,) = [word for word in curl if word.startswith("http")]
    port = words[words.index("--port") + 1]
    assert f":{port}/" in address
    with serving(here, ["mlflow", "models", "serve", *words], port) as (there, _):
        request = Request(address.replace(f":{port}/", f":{there}/"), body.encode())
        request.add_header("Content-Type", "application/json")
        with urlopen(request, timeout=START_SECONDS) as answer:
            (row,) = json.load(answer)["predictions"]
    assert set(row) == {"domain", "intent", "domain_probability", "intent_probability"}


@pytest.mark.slow
def test_the_ui_shows_the_runs(trained: str, here: Any) -> None:
    words = shown("loratrack", "ui")[-1]
    words += ["--no-browser", "--port", "5000"]
    with serving(here, ["loratrack", "ui", *words], "5000") as (port, _):
        get = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={trained}"
        with urlopen(get, timeout=START_SECONDS) as answer:
            assert json.load(answer)["run"]["info"]["run_name"].startswith("clinc_dual epochs=1 ")


@contextmanager
def serving(project: Any, words: list[str], port: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The server that `words` start, on a free port instead of `port`, answering."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        there = free.getsockname()[1]
    project.environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    process = project.start(*(str(there) if word == port else word for word in words))
    try:
        wait_for(f"http://127.0.0.1:{there}/health", process)
        yield there, process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(address: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        try:
            urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    pytest.fail(f"{address} did not answer in {START_SECONDS} s")


def test_the_server_of_a_team_starts_with_options_that_mlflow_has() -> None:
    (words,) = shown("mlflow", "server")
    context = mlflow.cli.cli.commands["server"].make_context("server", list(words))
    assert context.params["backend_store_uri"].startswith("postgresql+psycopg://")


def test_make_has_the_targets_shown() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert [words[0] for words in shown("make")] == ["demo", "test", "test-all"]
    assert {"demo", "test"} <= targets
    assert "\nDEMO := mlflow run . -P config=projects/clinc/dual.yaml\n" in makefile
    assert "\ndemo: $(READY)" in makefile
    assert "\ntest: $(READY)" in makefile
    assert "`mlflow run . -P\nconfig=projects/clinc/dual.yaml`" in README
    assert shown("source") == [[".venv/bin/activate"]]


@pytest.mark.parametrize(("place", "is_moved"), [("{here}", False), ("/elsewhere", True), ("", False)])
def test_make_builds_the_environment_anew_in_a_folder_that_moved(
    tmp_path: Path, place: str, is_moved: bool
) -> None:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "ready").write_text(place.format(here=tmp_path))
    process = subprocess.run(
        ["make", "-n", "setup"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ("rm -rf .venv" in process.stdout) == is_moved


def test_the_configs_shown_are_configs(here: Any) -> None:
    for block in blocks("yaml"):
        first = re.match(r"# (projects/\S+\.yaml)\n", block)
        assert first, f"its first line names its file: {block}"
        Path(first[1]).write_text(block, "utf-8")
        assert load(first[1]).exp_id
    assert load("projects/clinc/small.yaml").model.lora.rank == 4


def test_exported_variables_are_explained() -> None:
    for (words,) in shown("export"):
        assert f"`{words.split('=')[0]}`" in CONFIGURATION


# Tables


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of all tables on a page whose first heading is this one."""
    tables = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def settings(model: type[BaseModel] = SweepConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting with its default; `...` where it has none."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{key}.")
        else:
            yield key, ... if field.is_required() else field.default


DEFAULTS = dict(settings())
assert set(RunConfig.model_fields) < set(SweepConfig.model_fields)


def is_shown_as(cell: str, default: Any) -> bool:
    if default is ...:
        return cell == "*required*"
    text = cell.strip("`")
    if isinstance(default, float):
        return float(text) == default
    return text == {None: "null", True: "true", False: "false", "": "''"}.get(
        default if isinstance(default, str | bool | None) else "?", str(default)
    )


@pytest.mark.parametrize("row", rows(README, "setting"), ids=lambda row: row[0])
def test_readme_shows_the_default_of_a_setting(row: list[str]) -> None:
    key, default, _ = row
    assert key.strip("`") in DEFAULTS
    assert is_shown_as(default, DEFAULTS[key.strip("`")])


def test_the_reference_has_every_setting_once_in_the_order_of_the_schema() -> None:
    assert [row[0].strip("`") for row in rows(CONFIGURATION, "setting")] == list(DEFAULTS)
    assert len(rows(README, "setting")) > 20


@pytest.mark.parametrize("row", rows(CONFIGURATION, "setting"), ids=lambda row: row[0])
def test_the_reference_shows_type_and_default(row: list[str]) -> None:
    key, kind, default, meaning = row
    assert is_shown_as(default, DEFAULTS[key.strip("`")])
    assert kind == ("mapping of settings to spaces" if key == "`sweep.space`" else in_words(schema_of(key)))
    assert meaning


def test_the_spaces_shown_are_spaces(here: Any) -> None:
    settings = ["lr", "warmup_share", "weight_decay", "epochs", "max_grad_norm", "loss_weight"]
    shown = [cell.strip("`") for cell, _ in rows(CONFIGURATION, "space")]
    for setting, text in zip(settings, shown, strict=True):
        file = Path("projects/clinc/shown.yaml")
        content = {"name": "shown", "trials": 1, "space": {f"train.{setting}": yaml.safe_load(text)}}
        file.write_text(yaml.safe_dump({"base_config": "dual.yaml", "sweep": content}))
        assert load_sweep(file).sweep.space


def schema_of(key: str) -> dict[str, Any]:
    whole = SweepConfig.model_json_schema()
    found = whole
    for name in key.strip("`").split("."):
        found = found["properties"][name]
        if "$ref" in found:
            found = whole["$defs"][found["$ref"].rsplit("/", 1)[1]]
    return found


def in_words(schema: dict[str, Any]) -> str:
    *others, last = alternatives(schema)
    return f"{', '.join(others)} or {last}" if others else last


def alternatives(schema: dict[str, Any]) -> list[str]:
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return [words for part in schema[union] for words in alternatives(part)]
    if "enum" in schema or "const" in schema:
        return [f"`{value}`" for value in schema.get("enum", [schema.get("const")])]
    match schema["type"]:
        case "array":
            return [f"list of {in_words(schema['items'])}"]
        case "object":
            values = in_words(schema["additionalProperties"])
            return [f"mapping to ({values})" if " or " in values else f"mapping to {values}"]
        case "integer" | "number" as number:
            return [f"{number}{bounds(schema)}"]
        case kind:
            return [{"string": "text", "boolean": "true/false", "null": "null"}[kind]]


def bounds(schema: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {schema[name]}" for name, sign in signs.items() if name in schema]
    return f" {', '.join(told)}" if told else ""


def test_the_table_of_rooms_is_the_floor_plan() -> None:
    table = rows((ROOT / "docs" / "architecture.md").read_text("utf-8"), "room")
    there = {room: floor for room, (floor, _) in ROOMS.items() if any(SOURCE.glob(f"{room}*"))}
    assert {room.strip("`"): int(floor) for room, floor, _ in table} == {
        room: floor for room, floor in there.items() if room != "__init__"
    }


# Links


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], link


def test_readme_has_links_and_pictures() -> None:
    found = links(ROOT / "README.md")
    assert len([link for link in found if "://" not in link]) > 5
    pictures = [ROOT / link for link in found if link.endswith(".png")]
    assert len(pictures) >= 2
    assert all(picture.stat().st_size < 300_000 for picture in pictures)
