"""Prompt templates: Jinja2 in a sandbox, with passages in a frame that their text can't fake."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from schemas.errors import ConfigurationError, RefusedError

# What a template is given besides the request's variables.
RESERVED = frozenset({"passages", "retrieval"})
# A frame's own tags, and the marks by which chat templates tell turns apart (<|im_start|>, <start_of_turn>, [INST]):
# servers read them as such wherever they stand.
_MARKS = re.compile(
    r"<(?=\s*/?\s*passage\b)|<(?=[|｜][^|｜<>]{0,60}[|｜]>)|<(?=/?(?:s|bos|eos|start_of_turn|end_of_turn)>)"
    r"|<(?=</?SYS>>)|\[(?=/?INST\])",
    re.IGNORECASE,
)
_HARMLESS = {"<": "‹", "[": "⁅"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPassage:
    """A passage as templates see it: nothing in it can end its frame or begin another."""

    number: int
    title: str
    uri: str
    text: str


def neutral(text: str) -> str:
    """The text with look-alikes in place of characters that would be read as a frame or a turn."""
    return _MARKS.sub(lambda match: _HARMLESS[match.group()], text)


def shown(number: int, title: str, uri: str, text: str) -> ShownPassage:
    """The passage made harmless; title and uri on one line without quotes, since they stand in an attribute."""
    return ShownPassage(number=number, title=_attribute(title), uri=_attribute(uri), text=neutral(text))


def _attribute(text: str) -> str:
    return neutral(" ".join(text.split())).replace('"', "'").replace("<", "‹").replace(">", "›")


def numbered(passages: Iterable[ShownPassage]) -> str:
    """The filter ``numbered``: each passage in a frame that bears its number."""
    frames = []
    for passage in passages:
        title = f' title="{passage.title}"' if passage.title else ""
        frames.append(f'<passage number="{passage.number}"{title}>\n{passage.text}\n</passage>')
    return "\n".join(frames)


class Renderer:
    """Parses and renders templates; keeps what it parsed, by digest."""

    def __init__(self) -> None:
        self._environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined,
            # The output is a prompt, not a page: escaping would change what the model reads.
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["numbered"] = numbered
        self._parsed: dict[str, Template] = {}

    def check(self, text: str, *, name: str = "template") -> frozenset[str]:
        """The names of the variables that the template reads, if it parses and compiles.

        Raises ``ConfigurationError`` naming the line and what is wrong there.
        """
        try:
            tree = self._environment.parse(text)
            self._environment.compile(text)
        except TemplateSyntaxError as error:
            raise ConfigurationError(f"{name}, line {error.lineno}: {error.message}; correct the template") from None
        except TemplateError as error:  # e.g. an unknown filter
            raise ConfigurationError(f"{name}: {error.message}; correct the template") from None
        return frozenset(meta.find_undeclared_variables(tree)) - RESERVED

    def render(
        self,
        text: str,
        digest: str,
        *,
        passages: Sequence[ShownPassage],
        variables: Mapping[str, str],
        retrieval: bool,
    ) -> str:
        """The system message. Raises ``RefusedError`` naming the variable that is missing."""
        template = self._parsed.get(digest)
        if template is None:
            template = self._parsed[digest] = self._environment.from_string(text)
        values: dict[str, Any] = {name: neutral(value) for name, value in variables.items()}
        try:
            return template.render({**values, "passages": list(passages), "retrieval": retrieval}).strip()
        except UndefinedError as error:
            raise self._missing(text, set(variables), error) from None
        except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise RefusedError(
                "prompt_failed",
                f"prompt: the template can't be rendered with these variables ({type(error).__name__})",
                field="prompt.variables",
            ) from None

    def _missing(self, text: str, given: set[str], error: UndefinedError) -> RefusedError:
        missing = sorted(self.check(text) - given)
        named = next((name for name in missing if f"'{name}'" in str(error)), None)
        if named is None:
            return RefusedError(
                "prompt_failed", "prompt: the template reads something that its variables do not have", field="prompt"
            )
        return RefusedError(
            "missing_variable",
            f"prompt.variables.{named} is missing; the template needs it",
            field=f"prompt.variables.{named}",
        )
