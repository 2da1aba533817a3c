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


def in_shell(shell: str, script: str) -> list[str]:
    """The lines that a script prints in a shell that finds this `hub`."""
    program = shutil.which(shell) or pytest.skip(f"{shell} is not installed")
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run([program, "-c", script], env=environment, capture_output=True, text=True, check=False)  # noqa: S603  ours
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


def test_fish_completes() -> None:
    """A command with its short help, as fish shows it."""
    found = in_shell("fish", 'hub completion fish | source; complete -C "hub healthc"')
    assert found == ["healthcheck\tCheck whether the hub on this machine serves."]


def test_zsh_accepts_the_script() -> None:
    """It defines the function that completes, once zsh's own completion is there."""
    script = 'autoload -U compinit; compinit -u -D; eval "$(hub completion zsh)"; echo $_comps[hub]'
    assert in_shell("zsh", script) == ["_hub_completion"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_help_has_a_line_for_each_shell(shell: str) -> None:
    """One line for each shell, to be copied into its configuration."""
    help_lines = in_shell("bash", "hub completion --help")
    assert [line for line in help_lines if line.startswith(f"  {shell}:") and "hub completion" in line]
