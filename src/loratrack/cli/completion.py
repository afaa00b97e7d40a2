"""`loratrack completion bash|zsh|fish`: what the shell asks when Tab is pressed.

The script that it prints hands the words so far back to `loratrack completion words`, which knows the
commands, their options, and the runs, experiments and models of the store. Files the shell completes itself.
A name may hold spaces and signs that the shell obeys: zsh and fish quote it, in bash the script does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from loratrack.cli.commands import Commands, examples
from loratrack.cli.screen import console

WORDS = "words"
SCRIPTS = {
    "bash": """\
_loratrack() {
    local quote= word=${COMP_WORDS[COMP_CWORD]}
    case $word in
        [\\'\\"]*) quote=${word:0:1} word=${word:1} ;;
        *) IFS= read word <<< "$word" ;;
    esac
    COMPREPLY=()
    while IFS= read -r word; do
        if [[ -z $quote ]]; then printf -v word %q "$word"
        elif [[ $word == *[\\'\\"\\`\\$\\\\!]* ]]; then continue
        fi
        COMPREPLY+=("$word")
    done < <(loratrack completion words "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$word" 2>/dev/null)
}
complete -o default -F _loratrack loratrack
""",
    "zsh": """\
_loratrack() {
    local -a found
    found=(${(f)"$(loratrack completion words "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -a found; else _files; fi
}
compdef _loratrack loratrack
""",
    "fish": """\
function __loratrack
    loratrack completion words (commandline -opc)[2..] (commandline -ct) 2>/dev/null
end
complete -c loratrack -a '(__loratrack)'
""",
}
HELP = {
    "bash": 'eval "$(loratrack completion bash)"      # in ~/.bashrc',
    "zsh": 'eval "$(loratrack completion zsh)"       # in ~/.zshrc, after compinit',
    "fish": "loratrack completion fish | source       # in ~/.config/fish/config.fish",
}
RUN_PREFIX = 8
"""Letters of a run's id that are shown: enough to name it."""


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "completion",
        help="complete commands, options and runs in the shell",
        description="Print a script that lets the shell complete commands, options, runs and models.",
        epilog=examples(*HELP.values()),
    )
    parser.add_argument("shell", choices=(*SCRIPTS, WORDS), metavar="|".join(SCRIPTS))
    parser.add_argument("typed", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    screen = console()
    if arguments.shell != WORDS:
        screen.out(SCRIPTS[arguments.shell], end="")
        return 0
    for word in candidates(arguments.top, arguments.typed or [""]):
        screen.out(word)
    return 0


def candidates(parser: argparse.ArgumentParser, typed: Sequence[str]) -> list[str]:
    """What the last of the words that were typed may become; nothing where a file is due."""
    *before, last = typed
    option: argparse.Action | None = None  # whose value is due
    positionals = _positionals(parser)
    for word in before:
        if option is not None:
            option = None
        elif word.startswith("-"):
            action = parser._option_string_actions.get(word.partition("=")[0])
            takes_value = action is not None and action.nargs != 0 and "=" not in word
            option = action if takes_value else None
        elif positionals:
            due = positionals.pop(0)
            if isinstance(due, argparse._SubParsersAction):
                if word not in due.choices:
                    return []
                parser = due.choices[word]
                positionals = _positionals(parser)
    if option is None and last.startswith("-"):
        found: Iterable[str] = parser._option_string_actions
    else:
        found = _values(option or (positionals[0] if positionals else None))
    return sorted({word for word in found if word.startswith(last)})


def _positionals(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not action.option_strings]


def _values(action: argparse.Action | None) -> Iterable[str]:
    """The values that are known: choices, and by the word that stands for it runs and models of the store."""
    if action is None:
        return ()
    if action.choices is not None:
        return [str(choice) for choice in action.choices if choice != WORDS]
    kinds = str(action.metavar or "").split("|")
    if not {"RUN", "EXP", "MODEL", "VERSION"} & set(kinds) and action.dest != "model":
        return ()
    from loratrack.index.opened import open_tables
    from loratrack.index.runs import versions_by_run
    from loratrack.index.search import summaries
    from loratrack.store.place import database_file, tracking_uri

    if database_file(tracking_uri()) is None:  # a server is too slow an answer to Tab
        return ()
    found: list[str] = []
    with open_tables() as tables:
        if {"RUN", "EXP"} & set(kinds):
            for run in summaries(tables):
                found += [run.exp_id, run.run_id[:RUN_PREFIX]]
        versions = [version for each in versions_by_run(tables).values() for version in each]
    if "VERSION" in kinds:
        found += [f"{version.model}/{version.number}" for version in versions]
    elif not {"RUN", "EXP"} & set(kinds):
        found += [version.model for version in versions]
    return found
