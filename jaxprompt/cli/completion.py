"""Scripts by which a shell completes commands, options, claims and files.

They are made from the parser, so they know what it knows; names of claims are written into them,
because a shell cannot wait for JAX to start at every key.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxprompt.core.claim import PROFILES
from jaxprompt.core.registry import FAMILIES

__all__ = ["script"]


_VALUES = {"--profile": " ".join(PROFILES), "--family": " ".join(FAMILIES)}
"""Words that may follow an option."""


class _Command(NamedTuple):
    name: str
    help: str
    flags: tuple[tuple[str, str, bool], ...]
    """Name, help, and whether a value follows."""
    words: tuple[str, ...]
    """What may stand without a flag, besides files."""


def script(shell: str, parser: argparse.ArgumentParser, names: Sequence[str]) -> str:
    """The completion script for `shell` ("bash", "zsh" or "fish")."""
    commands = _commands(parser, names)
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _commands(parser: argparse.ArgumentParser, names: Sequence[str]) -> list[_Command]:
    group: Any  # argparse has no public name for the class of what holds the subcommands
    (group,) = (a for a in parser._actions if a.nargs == argparse.PARSER)
    helps = {choice.dest: choice.help or "" for choice in group._choices_actions}
    commands = []
    for name, sub in group.choices.items():
        flags, words = [], []
        for action in sub._actions:
            long = [option for option in action.option_strings if option.startswith("--")]
            if long:
                flags.append((long[0], action.help or "", action.nargs != 0))
            elif action.choices:
                words += action.choices
            elif "ID" in (action.metavar or ""):
                words += names
        commands.append(_Command(name, helps[name], tuple(flags), tuple(words)))
    return commands


def _bash(commands: Sequence[_Command]) -> str:
    values = "\n".join(
        f'    {flag}) COMPREPLY=( $(compgen -W "{words}" -- "$current") ); return ;;'
        for flag, words in _VALUES.items()
    )
    cases = "\n".join(
        f'    {c.name}) words="{" ".join([*(flag for flag, _, _ in c.flags), *c.words])}" ;;'
        for c in commands
    )
    return f"""\
# Completion for jaxprompt; made by `jaxprompt completion`.
_jaxprompt() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=( $(compgen -W "{" ".join(c.name for c in commands)} --help" -- "$current") )
    return
  fi
  case "$before" in
{values}
    --out|--from) COMPREPLY=( $(compgen -d -- "$current") ); return ;;
  esac
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  COMPREPLY=( $(compgen -W "$words" -- "$current") $(compgen -f -- "$current") )
}}
complete -o filenames -F _jaxprompt jaxprompt"""


def _zsh(commands: Sequence[_Command]) -> str:
    return f"autoload -Uz compinit bashcompinit\ncompinit -u\nbashcompinit\n{_bash(commands)}"


def _fish(commands: Sequence[_Command]) -> str:
    lines = ["# Completion for jaxprompt; made by `jaxprompt completion`."]
    for c in commands:
        start = "complete -c jaxprompt -n __fish_use_subcommand -f"
        lines.append(f"{start} -a {c.name} -d {_quoted(c.help)}")
        here = f"complete -c jaxprompt -n '__fish_seen_subcommand_from {c.name}'"
        for flag, text, valued in c.flags:
            known = _VALUES.get(flag)
            values = f" -xa '{known}'" if known else " -r" if valued else ""
            lines.append(f"{here} -l {flag[2:]}{values} -d {_quoted(text)}")
        if c.words:
            lines.append(f"{here} -a {_quoted(' '.join(c.words))}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
