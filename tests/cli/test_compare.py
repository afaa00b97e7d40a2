"""`loratrack compare`: what is on the screen, in JSON and in pictures."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.cells import cell_len
from tests.stores import be_a_terminal

from loratrack.cli import main
from loratrack.cli.screen import left_out_line
from loratrack.index import search
from loratrack.index.opened import open_tables
from loratrack.index.runs import Version
from loratrack.views import columns

LETTERS = "┃┡━╇┩│└┴┘┏┳┓"


def rows(output: str) -> list[list[str]]:
    """The cells of the table, its heading first."""
    lines = [line for line in output.splitlines() if line[:1] in ("┃", "│")]
    return [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines]


def test_the_best_come_first_with_what_tells_them_apart(
    any_store_of_runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--filter", "task_type=multi_cls", "--sort-by", "avg_f1", "--all"]) == 0
    output = capsys.readouterr().out
    heading, *lines = rows(output)
    assert heading == [
        *("exp_id", "run", "task_type", "started", "device", "status", "error", "rank", "lr"),
        *("avg_f1", "registered"),
    ]
    assert [row[6] for row in lines] == ["–", "–", "exp_v2: the loss was nan…", "–", "–"]
    shown = [(row[0], row[2], row[5], *row[7:]) for row in lines]
    assert shown == [
        ("exp_v4", "double_cls", "FINISHED", "16", "0.0002", "0.9300", "v2 @champion"),
        ("exp_中文", "multi_cls", "FINISHED", "8", "2e-05", "0.9100", "–"),
        ("exp_v2", "double_cls", "FAILED", "16", "0.0002", "0.7000", "–"),
        ("exp_v4", "double_cls", "FINISHED", "32", "0.0002", "0.6500", "–"),
        ("exp_v5", "double_cls", "RUNNING", "32", "0.0002", "0.2000", "–"),
    ]
    assert output.endswith("5 of 5 runs, sorted by avg_f1\n")


def test_failed_runs_are_left_out_until_they_are_asked_for(
    store_of_runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--filter", "task_type=multi_cls"]) == 0
    output = capsys.readouterr().out
    assert "exp_v2" not in output
    assert output.endswith("4 of 4 runs, newest first; 1 failed, shown with --all\n")
    assert main(["compare", "--filter", "exp_id=exp_v2"]) == 1
    assert capsys.readouterr().out == "1 run failed; --all shows why\n"
    assert main(["compare", "--filter", "status=failed"]) == 0
    assert capsys.readouterr().out.endswith("1 of 1 runs, newest first\n")
    assert main(["compare", "--filter", "error~nan", "--all"]) == 0
    assert capsys.readouterr().out.endswith("1 of 1 runs, newest first\n")


def test_columns_line_up_with_chinese_letters_too(
    store_of_runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line[:1] in LETTERS]
    assert any("中文" in line for line in table)
    assert len({cell_len(line) for line in table}) == 1


def test_the_difference_alone(store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--filter", "exp_id=exp_v4", "--diff"]
    assert main(words) == 0
    assert [row[2:] for row in rows(capsys.readouterr().out)] == [
        ["rank", "avg_f1"],
        ["32", "0.6500"],
        ["16", "0.9300"],
    ]
    assert main([*words, "--sort-by", "avg_f1"]) == 0
    assert [row[2:] for row in rows(capsys.readouterr().out)] == [
        ["rank", "avg_f1"],
        ["16", "0.9300"],
        ["32", "0.6500"],
    ]
    assert main(["compare", "--filter", "alias=champion", "--diff"]) == 0
    assert "these runs have identical settings\n" in capsys.readouterr().out


def test_data_that_changed_behind_its_path_is_a_difference(store_of_runs: str) -> None:
    with open_tables() as tables:
        runs = search.search(tables, filter_text="exp_id=exp_v4", limit=2).runs
    told = [replace(run, tags={**run.tags, "data_sha256": 8 * str(n)}) for n, run in enumerate(runs)]
    found = columns.columns(told, is_diff=True)
    assert [column.name for column in found] == [
        *("exp_id", "run_id", "model.lora.rank", "data_sha256", "avg_f1")
    ]
    assert found[3].cells == ("00000000", "11111111")
    assert "data_sha256" not in [column.name for column in columns.columns(told)]


def test_chosen_columns(store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = "duration,train.lr,exp_id, best_avg_f1,alias,version"
    assert main(["compare", "--columns", names, "--limit", "3"]) == 0
    output = capsys.readouterr().out
    assert rows(output) == [
        ["exp_id", "run", "duration", "lr", "best_avg_f1", "alias", "registered"],
        ["exp_v5", rows(output)[1][1], "–", "0.0002", "–", "–", "–"],
        ["exp_v4", rows(output)[2][1], "1 min 0 s", "0.0002", "0.6500", "–", "–"],
        ["exp_v4", rows(output)[3][1], "1 min 0 s", "0.0002", "0.9300", "champion", "v2 @champion"],
    ]
    assert output.endswith("3 of 5 runs, newest first; --limit shows more; 1 failed, shown with --all\n")


def test_a_file_is_as_wide_as_COLUMNS_says(
    store_of_runs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["compare"]) == 0
    output = capsys.readouterr().out
    assert max(cell_len(line) for line in output.splitlines() if line[:1] in LETTERS) <= 80
    assert (
        "no room for 3 columns: task_type, started, device; choose with --columns, or see all with --json\n"
        in output
    )


def test_what_was_asked_for_is_shown_before_the_rest(
    store_of_runs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def heading(*words: str) -> list[str]:
        assert main(["compare", *words]) == 0
        return rows(capsys.readouterr().out)[0]

    monkeypatch.setenv("COLUMNS", "70")
    assert "started" not in heading()
    assert heading("--filter", "started<1d and lr>0 and test_avg_f1>0.1") == [
        *("exp_id", "run", "started", "lr", "test_avg_f1")
    ]
    named = heading("--filter", "params.model.lora.rank>4 and task_type~cls")
    assert {"exp_id", "run", "task_type", "rank"} <= set(named)
    assert heading("--filter", "status=FAILED")[:4] == ["exp_id", "run", "status", "error"]
    assert "registered" in heading("--filter", "alias=champion")
    assert "started" not in heading("--filter", "started<1d", "--diff")


def test_the_columns_that_find_no_room_take_two_lines_at_most() -> None:
    some = [columns.Column(f"metric_{number}", f"metric_{number}", ()) for number in range(30)]
    line = left_out_line(some, 80, "; choose with --columns, or see all with --json")
    assert 140 < cell_len(line) <= 160
    assert line.startswith("no room for 30 columns: metric_0, metric_1, ")
    assert line.endswith(", …; choose with --columns, or see all with --json")
    assert left_out_line(some[:2], 30) == "no room for 2 columns: metric_0, metric_1"


def test_the_versions_of_several_models_are_named(store_of_runs: str) -> None:
    def version(model: str, *aliases: str, stage: str | None = None) -> Version:
        return Version(model, 1, stage, aliases)

    with open_tables() as tables:
        run = search.search(tables, limit=1).runs[0]
    champion = replace(run, versions=(version("risk", "champion", stage="Production"),))
    staged = replace(run, versions=(version("risk", stage="Staging"),))
    other = replace(run, versions=(version("intent", "champion", stage="Production"),))
    [cells] = [each.cells for each in columns.columns([champion, staged], names=["version"])[2:]]
    assert cells == ("v1 @champion", "v1 Staging")
    [cells] = [each.cells for each in columns.columns([champion, other], names=["version"])[2:]]
    assert cells == ("risk v1 @champion", "intent v1 @champion")


@pytest.mark.parametrize(("no_colour", "shown"), [("", "\x1b[31mFAILED\x1b[0m"), ("1", "FAILED ")])
def test_a_terminal_shows_states_in_colours(
    store_of_runs: str,
    no_colour: str,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    be_a_terminal(200, monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_colour)
    assert main(["compare", "--all"]) == 0
    output = capsys.readouterr().out
    assert shown in output
    assert ("\x1b[32m" in output) == (no_colour == "")
    assert main(["compare", "--filter", "a>"]) == 2
    assert ("\x1b[1;31mloratrack: \x1b[0m" in capsys.readouterr().err) == (no_colour == "")


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_a_narrow_terminal_leaves_columns_out_and_says_which(
    store_of_runs: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    be_a_terminal(width, monkeypatch)
    assert main(["compare", "--sort-by", "avg_f1"]) == 0
    output = capsys.readouterr().out
    heading, *lines = rows(output)
    assert all(cell_len(line) <= width for line in output.splitlines() if line[:1] in LETTERS)
    assert not any("…" in cell for row in rows(output) for cell in row)
    assert len(lines) == 5
    assert heading[:2] == ["exp_id", "run"]
    assert "avg_f1" in heading
    assert ("status" in heading) == (width > 40)
    assert ("; choose with --columns, or see all with --json" in output) == (width < 200)


def test_json_holds_everything(any_store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--filter", "alias=champion", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    [run] = answer["runs"]
    assert (answer["total"], answer["in_store"]) == (1, 6)
    assert (run["exp_id"], run["status"], run["duration_seconds"]) == ("exp_v4", "FINISHED", 60)
    assert run["settings"]["model.lora.rank"] == "16"
    assert run["tags"]["project"] == "risk"
    assert run["best"] == {"avg_f1": 0.93}
    assert run["metrics"]["test_avg_f1"] == 0.5
    assert run["versions"] == [{"model": "risk", "version": 2, "stage": None, "aliases": ["champion"]}]
    ui = any_store_of_runs if any_store_of_runs.startswith("http") else "http://127.0.0.1:5000"
    assert re.fullmatch(
        rf"{ui}/#/experiments/\d+/runs/{run['run_id']}\?workflowType=machine_learning", run["link"]
    )


def test_json_of_differences_and_of_columns(store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--filter", "exp_id=exp_v4", "--diff", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["settings"] for run in runs] == [{"model.lora.rank": "32"}, {"model.lora.rank": "16"}]
    assert main(["compare", "--columns", "avg_f1,alias,task_type", "--json", "--limit", "1"]) == 0
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert run | {"run_id": ""} == {"run_id": "", "avg_f1": 0.2, "alias": None, "task_type": "double_cls"}


def test_nothing_found_is_1(store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--filter", "avg_f1>0.99"]) == 1
    assert capsys.readouterr().out == "none of 6 runs has avg_f1>0.99\n"
    assert main(["compare", "--filter", "avg_f1>0.99", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"total": 0, "in_store": 6, "runs": []}


def test_a_new_project_has_no_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert main(["compare", "--plot", str(tmp_path / "a.png")]) == 1
    place = f"sqlite:///{tmp_path}/mlflow.db"
    assert capsys.readouterr().out == f"no runs yet in {place}; make one with loratrack run CONFIG\n"
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_is_2(store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--filter", "avg_f1 > > 0.9"]) == 2
    assert capsys.readouterr().err == (
        "loratrack: after > must be a value, got '>'\n  avg_f1 > > 0.9\n           ^\n"
    )
    for words in (["--limit", "0"], ["--limit", "x"], ["--plot", "a.pdf"], ["--plot", "no/such/a.png"]):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *words])
        assert ended.value.code == 2
    assert "must be a whole number from 1 on, got '0'" in capsys.readouterr().err


def test_help_explains_the_language(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    output = capsys.readouterr().out
    assert "started>7d is later than 7 days ago, started<7d is before that" in output


class Page(HTMLParser):
    """What a page holds, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.is_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.is_title = tag == "title"
        for name, value in attributes:
            if name in ("src", "data") or (name in ("href", "xlink:href") and tag != "a"):
                self.loaded += [] if str(value).startswith("#") else [str(value)]
            elif name == "href":
                self.links.append(str(value))

    def handle_data(self, data: str) -> None:
        if self.is_title:
            self.titles.append(data)
        self.is_title = False


def test_few_runs_are_drawn_as_bars(store_of_runs: str, tmp_path: Path) -> None:
    assert main(["compare", "--sort-by", "avg_f1", "--plot", "bars.png"]) == 0
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", "--sort-by", "avg_f1", "--plot", "bars.HTML"]) == 0
    text = (tmp_path / "bars.HTML").read_text("utf-8")
    page = Page(text)
    assert page.loaded == []
    assert "exp_中文" in text
    assert len([title for title in page.titles if title.startswith("exp_")]) == 5
    assert len(page.links) == 5
    assert all(link.startswith("http://127.0.0.1:5000/#/") for link in page.links)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "bars.HTML", tmp_path / "bars.png"]


@pytest.fixture
def many_runs(store_of_runs: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy of the store with fourteen runs more, of which some have odd settings and no score."""
    target = tmp_path / "many.db"
    source = closing(sqlite3.connect(store_of_runs.removeprefix("sqlite:///")))
    with source as few, closing(sqlite3.connect(target)) as database, database:
        few.backup(database)
        [(model,)] = database.execute(
            "SELECT run_uuid FROM tags WHERE key = 'exp_id' AND value = 'exp_v1'"
        ).fetchall()
        for number in range(14):
            run_id = f"{number:032x}"
            database.execute(
                "INSERT INTO runs(run_uuid, name, status, start_time, lifecycle_stage, experiment_id)"
                " SELECT ?, name, status, start_time, lifecycle_stage, experiment_id FROM runs"
                " WHERE run_uuid = ?",
                (run_id, model),
            )
            odd = "<script>alert(1)</script> $x^2$" if number == 3 else f"base-{number % 3}"
            params = {"model.arch": odd, "train.lr": str(10.0 ** -(number % 5)), "train.epochs": str(number)}
            params |= {"model.lora.rank": "None"} if number % 2 else {"model.lora.rank": "8"}
            for key, value in params.items():
                database.execute("INSERT INTO params VALUES (?, ?, ?)", (key, value, run_id))
            database.execute("INSERT INTO tags VALUES ('exp_id', ?, ?)", (f"exp_{number}", run_id))
            if number != 5:
                database.execute(
                    "INSERT INTO latest_metrics VALUES ('best_avg_f1', ?, 0, 0, 0, ?)", (number / 14, run_id)
                )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{target}")


def test_many_runs_are_drawn_as_parallel_coordinates(many_runs: None, tmp_path: Path) -> None:
    assert main(["compare", "--plot", "many.html"]) == 0
    text = (tmp_path / "many.html").read_text("utf-8")
    page = Page(text)
    assert page.loaded == []
    assert "script" not in page.tags
    assert len([title for title in page.titles if title.startswith("exp_")]) == 19
    for heading in ("model.lora.rank", "train.lr", "train.epochs", "model.arch", "avg_f1"):
        assert f">{heading}</text>" in text
    assert main(["compare", "--plot", "many.png"]) == 0
    assert (tmp_path / "many.png").read_bytes().startswith(b"\x89PNG")


def test_runs_without_a_score_and_with_the_same_settings_are_drawn_too(many_runs: None) -> None:
    assert main(["compare", "--filter", "exp_id=exp_5", "--plot", "one.png"]) == 0
    assert Path("one.png").read_bytes().startswith(b"\x89PNG")


def test_letters_that_no_font_has_are_told_beside_the_answer(
    many_runs: None, no_cjk_fonts: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(tmp_path / "many.db")) as database, database:
        database.execute("UPDATE tags SET value = 'exp_한' WHERE key = 'exp_id' AND value = 'exp_5'")
    command = ["compare", "--filter", "exp_id~exp_한", "--json", "--plot"]
    assert main([*command, "one.png"]) == 0
    output, errors = capsys.readouterr()
    assert json.loads(output)["runs"][0]["exp_id"] == "exp_한"
    assert errors.startswith("one.png: no font here has '한', drawn as □; ")
    assert main([*command, "one.html"]) == 0
    assert capsys.readouterr().err == ""


def test_the_page_opens_in_a_browser(many_runs: None, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed: on Debian, apt install chromium")
    assert main(["compare", "--plot", "many.html"]) == 0
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    process = subprocess.run(
        [*command, (tmp_path / "many.html").as_uri()], capture_output=True, text=True, check=True
    )
    assert process.stdout.count('<g id="run-') == 19
    assert "alert(1)" in process.stdout
    assert "<script" not in process.stdout
