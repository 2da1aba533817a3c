"""``hub config``: the settings in force and the source of each, and a file with all settings."""

import json
import os
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from hub import config
from hub.cli.options import EPILOG, give_up, load_settings, setting_options
from hub.cli.output import say
from hub.config import SECRETS, Settings
from hub.environment import variable
from hub.errors import StartError

MASKED = "********"


@click.command("config", epilog=EPILOG, short_help="Show the settings in force.")
@click.option("--sample", is_flag=True, help="print a settings file with every setting and its default instead")
@setting_options()
def config_command(sample: bool, config_file: str | None, **flags: str | bool | None) -> None:  # noqa: FBT001  click
    """Show each setting with its value and its source, as TOML. Secrets are masked, unset settings are comments.

    It refuses what 'hub serve' refuses, with the same messages: use it to check settings before a restart.
    """
    if sample:
        say(sample_file())
        return
    settings = load_settings(config_file, flags)
    file = config_file or os.environ.get("HUB_CONFIG")
    try:
        in_file = config.read_toml(Path(file)) if file else {}
    except StartError as error:
        give_up(str(error))
    environment = {name.upper() for name in os.environ}
    lines = []
    for name in Settings.model_fields:
        if flags.get(name) is not None:
            source = "flag"
        elif variable(name) in environment:
            source = variable(name)
        elif name in SECRETS and getattr(settings, f"{name}_file") is not None:
            source = f"{name}_file"
        else:
            source = str(file) if name in in_file else "default"
        lines.append(f"{line(name, getattr(settings, name))}  # {source}")
    say("\n".join(lines))


def line(name: str, value: Any) -> str:  # noqa: ANN401  any setting's value
    """A setting as a line of TOML; one that is unset as a comment, a secret without its text."""
    if value is None:
        return f"# {name} is unset"
    if isinstance(value, SecretStr):
        return f"{name} = {json.dumps(MASKED)}"
    text = json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
    return f"{name} = {text}"


def sample_file() -> str:
    """Every setting with its meaning and its default, all commented out."""
    parts = ["# Settings of the hub; `hub config --sample` makes this file. Without a '#' before it a line counts."]
    for name, field in Settings.model_fields.items():
        unit = config.unit_of(name)
        parts.append(f"# {field.description}{f' [{unit}]' if unit else ''}")
        parts.append(f"# {line(name, field.default)}" if field.default is not None else f'# {name} = ""')
        parts.append("")
    return "\n".join(parts).rstrip()
