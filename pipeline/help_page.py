"""Writes what --help shows: what a command does, how it is called, and its flags, the most needed first."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

from absl import flags

_WIDTH = 100
_ALIAS = "Alias for --"  # begins absl's help of other names
_REPEATED = ";\n    repeat this option"  # begins what absl adds to help of flags that may be repeated


def own_flags() -> list[str]:
    """Lists the names of the command's own flags, in the order in which it defines them."""
    return [flag.name for flag in _own()]


def usage() -> str:
    """Returns the first example of the command's documentation; empty where it has none."""
    lines = (line.strip() for line in (sys.modules["__main__"].__doc__ or "").splitlines())
    return next((line for line in lines if line.startswith("python -m ")), "")


def help_page() -> str:
    """Returns the documentation of the command that runs, and its flags in the order of their definition."""
    shown = [_described(flag) for flag in _own() if not flag.help.startswith(_ALIAS)]
    about = (sys.modules["__main__"].__doc__ or "").strip()
    more = "--verbosity=1 shows what libraries say, too; --helpfull lists their flags."
    return "\n".join([about, "", "flags:", "", *shown, "", more])


def _own() -> list[flags.Flag[Any]]:
    """Returns the flags of the command's own file, without those of libraries."""
    return list(flags.FLAGS.get_key_flags_for_module(sys.argv[0]))


def _described(flag: flags.Flag[Any]) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    default = flag.default
    told = f" (default: {flag.default_as_str})" if default not in (None, "", False, []) else ""
    text = f"{name}: {flag.help.partition(_REPEATED)[0]}{told}"
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
