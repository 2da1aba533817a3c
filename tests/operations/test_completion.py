"""`hub completion` teaches a shell the commands, flags and values of hub: tried in that shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

IN_BASH = """
eval "$(hub completion bash)"
COMP_WORDS=({words}) COMP_CWORD=$(({count} - 1))
compopt() {{ echo "by bash: $2"; }}
_hub_completion hub
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


LINES = [
    "hub do",
    "hub serve --retent",
    "hub serve --log-level w",
    "hub serve --config hub",
    "hub serve --data-dir da",
    "hub emit ticket_cl",
]

IN_ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'autoload -U compinit; compinit -u -D; eval "$(hub completion zsh)"'
zpty -w shell 'show() { print -r -- "<$BUFFER>"; BUFFER= }; zle -N show; bindkey "^X" show "^I" complete-word'
zpty -w shell 'PS1=; print rea""dy'
zpty -r -m shell out "*ready*"
for line in "$@"; do
  zpty -w -n shell "$line"$'\t\x18'
  zpty -r -m shell out "*<*>*"
  print -r -- "${${out##*<}%%>*}"
done
"""
"""Types lines into a zsh on a terminal of its own, with a Tab behind each, and prints the lines as they are then."""


def lay_files(directory: Path) -> None:
    """A file, and a directory, that the lines above begin to name."""
    (directory / "hub.toml").touch()
    (directory / "data").mkdir()
    (directory / "dates.txt").touch()


def in_shell(shell: str, script: str, *arguments: str, cwd: Path | None = None) -> list[str]:
    """The lines that a script prints in a shell that finds this `hub`."""
    program = shutil.which(shell) or pytest.skip(f"{shell} is not installed")
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    words = [program, "-c", script, *arguments]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  ours
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["hub", "do"], ["doctor"]),
        (["hub", "serve", "--retent"], ["--retention"]),
        (["hub", "serve", "--log-level", "w"], ["warning"]),
        (["hub", "serve", "--config", "hub"], ["by bash: default", ""]),
        (["hub", "serve", "--data-dir", ""], ["by bash: dirnames", ""]),
        (["hub", "emit", "ticket_cl"], ["ticket_closed"]),
        (["hub", "tail", "--scope", "ticket_st"], ["ticket_stats"]),
    ],
)
def test_bash_completes(words: list[str], completed: list[str]) -> None:
    """Commands, flags, the choices of a setting; files and directories by bash itself."""
    quoted = " ".join(f"'{word}'" for word in words)
    assert in_shell("bash", IN_BASH.format(words=quoted, count=len(words))) == completed


def test_fish_completes(tmp_path: Path) -> None:
    """The same, each value with its whole description, which may have commas."""
    lay_files(tmp_path)
    script = "hub completion fish | source; for line in $argv; complete -C $line; end"
    assert in_shell("fish", script, *LINES, cwd=tmp_path) == [
        "doctor\tCheck the hub's machine, settings and store.",
        "--retention\thow long events are kept [259200; $HUB_RETENTION]",
        "warning",
        "hub.toml",
        "data/\tDirectory",
        "ticket_closed",
    ]


def test_zsh_completes(tmp_path: Path) -> None:
    """The same, by the Tab key of an interactive zsh."""
    lay_files(tmp_path)
    assert in_shell("zsh", IN_ZSH, "zsh", *LINES, cwd=tmp_path) == [
        "hub doctor ",
        "hub serve --retention ",
        "hub serve --log-level warning ",
        "hub serve --config hub.toml ",
        "hub serve --data-dir data/",
        "hub emit ticket_closed ",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_help_has_a_line_for_each_shell(shell: str) -> None:
    """One line for each shell, to be copied into its configuration."""
    help_lines = in_shell("bash", "hub completion --help")
    assert [line for line in help_lines if line.startswith(f"  {shell}:") and "hub completion" in line]
