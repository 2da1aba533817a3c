"""What pydantic finds wrong with a setting, in plain words."""

import difflib
from collections.abc import Callable, Collection
from typing import Any

_MUST = {
    "greater_than_equal": "must be at least {ge:.15g}{unit}",
    "less_than_equal": "must be at most {le:.15g}{unit}",
    "greater_than": "must be more than {gt:.15g}{unit}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must be 1 to 32 letters, digits, - or _",  # nats_stream alone has a pattern
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number{of}"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "must be a number{of}"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    "string_type": "must be text",
    "path_type": "must be a path",
}


def complaint(error: Any, names: Collection[str], unit_of: Callable[[str], str]) -> str:  # noqa: ANN401  pydantic's ErrorDetails has no public name
    """One line about one wrong setting, without its value, which may be a secret.

    Args:
        error: as pydantic describes it.
        names: of all settings.
        unit_of: tells what one of them counts.
    """
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        meant = difflib.get_close_matches(name, list(names), n=1)
        return f'unknown setting "{name}"' + (f'; did you mean "{meant[0]}"?' if meant else "")
    unit = unit_of(name) if name in names else ""
    words = {"unit": f" {unit}" if unit else "", "of": f" of {unit}" if unit else ""} | error.get("ctx", {})
    plain = _MUST.get(error["type"])
    text = plain.format_map(words) if plain else error["msg"].removeprefix("Value error, ")
    return f"{name}: {text}" if name else text
