"""``hub completion``: shell completion for `hub`, with the values of settings."""

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


USE = """
\b
bash: eval "$(hub completion bash)"     in ~/.bashrc
zsh:  eval "$(hub completion zsh)"      in ~/.zshrc, after compinit
fish: hub completion fish | source      in ~/.config/fish/config.fish
"""


@click.command(epilog=USE, short_help="Print a completion script for a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script with which a shell completes the commands, flags and values of hub."""
    completion_class = get_completion_class(shell)
    if completion_class is None:
        raise click.UsageError(f"click has no completion for {shell}")
    script = completion_class(context.find_root().command, {}, "hub", "_HUB_COMPLETE").source().rstrip()
    if shell == "fish":  # click's script drops what follows a comma in a description
        script = script.replace('string split ","', 'string split --max 1 ","')
    click.echo(script)


def complete_values(placeholder: str) -> Complete:
    """The completion of a value by its placeholder in the help: FILE, DIRECTORY, or words as in "debug|info"."""

    def complete(_context: click.Context, _parameter: click.Parameter, beginning: str) -> list[CompletionItem]:
        if placeholder in ("FILE", "DIRECTORY"):
            return [CompletionItem(beginning, type="dir" if placeholder == "DIRECTORY" else "file")]
        words = placeholder.split("|") if "|" in placeholder else []
        return [CompletionItem(word) for word in words if word.startswith(beginning)]

    return complete
