"""The variables HUB_* of the environment: which are settings, and which others belong to the hub and its callers."""

import difflib
from collections.abc import Collection, Mapping

from hub.errors import StartError

ENV_PREFIX = "HUB_"
CALLERS_FILES = {"HUB_ADMIN_KEY_FILE", "HUB_BOT_KEY_FILE", "HUB_KEY_FILE"}
CALLERS_VARIABLES = {"HUB_ADMIN_KEY", "HUB_BOT_KEY", "HUB_KEY", "HUB_ADDRESS", "HUB_CONFIG"} | CALLERS_FILES
"""Variables that clients export beside the settings; the settings do not read them."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def refuse_misspelt(environment: Mapping[str, str], settings: Collection[str]) -> None:
    """Refuse a HUB_ variable that looks like a misspelt setting; others are not ours (Kubernetes sets HUB_PORT).

    Raises:
        StartError: with the name that was probably meant.
    """
    refuse_unknown_files(environment, settings)
    names = set(map(variable, settings))
    for name in sorted(environment):
        if name.startswith(ENV_PREFIX) and name not in names | CALLERS_VARIABLES:
            meant = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.85)
            if meant:
                raise StartError(f'unknown setting "{name}"; did you mean "{meant[0]}"?')


def refuse_unknown_files(environment: Mapping[str, str], settings: Collection[str]) -> None:
    """Refuse a HUB_ variable that names a file but that nothing reads: its secret would be missing silently.

    Raises:
        StartError: with the names that there are.
    """
    known = set(map(variable, settings)) | CALLERS_FILES
    for name in sorted(environment):
        if name.startswith(ENV_PREFIX) and name.endswith("_FILE") and name not in known:
            twins = ", ".join(sorted(one for one in known if one.endswith("_FILE")))
            raise StartError(f"unknown variable {name}: files are named by {twins}")
