"""`loratrack check CONFIG`: what a training would see, and everything that is wrong, without training."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from loratrack.cli.commands import Commands, add_settings_to, examples
from loratrack.cli.screen import console, print_json
from loratrack.errors import UserError, counted

if TYPE_CHECKING:
    from rich.table import Table

MAX_LABELS = 20
"""Of more labels, the most frequent and the rarest are shown."""
PARTS = ("train", "validation", "test")


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "check",
        help="what a config and its data hold, before anything is trained",
        description="Read a config, its data and the tokenizer of its base; show rows, labels, lengths and"
        " steps, or all problems at once. No run is made. A sweep's config is checked with its space.",
        epilog=examples(
            "loratrack check projects/clinc/dual.yaml",
            codes="exit codes: 0 it can be trained, 2 there are problems",
        ),
    )
    parser.add_argument("config", help="a YAML file, such as projects/clinc/dual.yaml")
    add_settings_to(parser, "data.max_len=64")
    parser.add_argument("--json", action="store_true", help="everything as JSON, problems too")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.experiments.loading import load_any
    from loratrack.experiments.preview import preview

    try:
        content = preview(load_any(arguments.config, arguments.set))
    except UserError as error:
        if arguments.json:
            print_json({"problems": str(error).splitlines()})
        raise
    if arguments.json:
        print_json({**content, "problems": []})
        return 0
    screen = console()
    screen.print(f"{content['exp_id']} ({content['task_type']}): no problems\n")
    for line in lines(content):
        screen.print(line)
    return 0


def lines(content: Mapping[str, Any]) -> Iterator[str | Table]:
    """The page, section by section."""
    rows = {part: content["rows"][part] for part in PARTS if part in content["rows"]}
    yield f"rows       {'  '.join(f'{part} {count:,}' for part, count in rows.items())}"
    for setting, file in content["files"].items():
        repeated = f", {file['repeated_rows']:,} of them repeat a text" if file["repeated_rows"] else ""
        yield f"           {file['name']} ({setting}): {file['rows']:,} rows, {file['encoding']}{repeated}"
    for part in rows:
        tokens, heading = content["tokens"][part], "tokens" if part == "train" else ""
        yield (
            f"{heading:<10} {part}: median {tokens['median']:g}, 99 % up to {tokens['p99']:g},"
            f" longest {tokens['max']:,}; {tokens['truncated']:,} cut at {content['max_len']}"
        )
    kinds = {"unknown": "are unknown", "byte": "parts of a character", "letter": "single letters"}
    shares = [f"{content['vocabulary'][f'{kind}_share']:.1%} {text}" for kind, text in kinds.items()]
    yield f"           of the base's tokens {', '.join(shares).replace('%', ' %')}"
    for same in content["same_tokens"]:
        part = "training" if same["rows_of"] == "train" else same["rows_of"]
        fate = "left out" if same["left_out"] else "kept"
        yield (
            f"           {counted(same['rows'], f'{part} row')} {fate}: the same text to this base as a"
            f" {same['also_in']} row"
        )
    base, training = content["base"], content["training"]
    train, model = training["train"], training["model"]
    yield f"base       {base['name']} ({base['origin']}), {base['folder']}"
    lora = f"LoRA rank {model['lora']['rank']}, alpha {model['lora']['alpha']:g}"
    adapted = lora if model["use_lora"] else "all weights trained"
    yield (
        f"training   {training['steps']:,} steps: {train['epochs']} epochs of {training['steps_an_epoch']:,}"
        f" with {train['batch_size']} rows"
    )
    yield f"           lr {training['lr']}, {train['schedule']}; {adapted}"
    version = "no version" if training["version_of"] is None else f"a version of {training['version_of']}"
    condition = " where it is better than the newest" if training["registers_best"] else ""
    yield f"keeps      {train['save_strategy']}; {version}{condition}"
    if "sweep" in content:
        yield from sweep_lines(content["sweep"])
    yield ""
    for task, labels in content["labels"].items():
        yield labels_table(task, labels, list(rows))
    for notice in content["notices"]:
        yield f"- {notice}"


def sweep_lines(sweep: Mapping[str, Any]) -> Iterator[str]:
    limits = {"trials": sweep["trials"], "hours": sweep["max_hours"]}
    most = ", ".join(f"at most {count:g} {noun}" for noun, count in limits.items() if count is not None)
    yield f"sweep      {sweep['name']}: {most or 'a grid'}, by {sweep['metric']}"
    for key, space in sweep["space"].items():
        kinds = {name: value for name, value in space.items() if value not in ({}, None)}
        yield f"           {key}: {', '.join(f'{name} {value}' for name, value in kinds.items())}"


def labels_table(task: str, labels: Mapping[str, Mapping[str, int]], parts: list[str]) -> Table:
    from rich.table import Table

    table = Table(title=f"{task}: {len(labels)} labels", title_justify="left")
    table.add_column("label", overflow="fold")
    for part in parts:
        table.add_column(part, justify="right")
    by_count = sorted(labels.items(), key=lambda item: -sum(item[1].values()))
    shown = (
        by_count
        if len(by_count) <= MAX_LABELS
        else [*by_count[: MAX_LABELS // 2], *by_count[-MAX_LABELS // 2 :]]
    )
    for number, (label, counts) in enumerate(shown):
        if len(shown) < len(by_count) and number == MAX_LABELS // 2:
            table.add_row(f"… {len(by_count) - len(shown)} more", *("" for _ in parts))
        table.add_row(label, *(f"{counts[part]:,}" for part in parts))
    return table
