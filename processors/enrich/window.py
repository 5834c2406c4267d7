"""Cutting what is put before the model to the model's context window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from processors.enrich.policy import EnrichPolicy
from processors.enrich.template import ShownPassage, shown
from processors.passages import Hit
from processors.text import inline, message_text
from schemas.errors import RefusedError
from schemas.records import Message

# What a picture, a sound or a file is taken to be: about what providers count for a picture in full and in low detail.
_PART_TOKENS, _LOW_DETAIL_TOKENS = 1_100, 100

Count = Callable[[str], int]
Render = Callable[[Sequence[ShownPassage]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The messages of a request: ``pinned`` always go, ``turns`` go from the newest as far as there is room.

    ``question_field`` is where the request holds the question, for messages.
    """

    pinned: tuple[Message, ...]
    turns: tuple[tuple[Message, ...], ...]
    question: str
    question_field: str
    order: tuple[Message, ...]

    def without(self, dropped: int) -> tuple[Message, ...]:
        """The messages in their order, less the ``dropped`` oldest turns."""
        gone = {id(message) for turn in self.turns[:dropped] for message in turn}
        return tuple(message for message in self.order if id(message) not in gone)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPassage:
    """A passage in the prompt; ``text`` is what of it is shown."""

    hit: Hit
    text: str

    @property
    def truncated(self) -> bool:
        return len(self.text) < len(self.hit.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What goes to the model."""

    system: str
    messages: tuple[Message, ...]
    passages: tuple[KeptPassage, ...]
    dropped_passages: int
    truncated: bool
    tokens: int


def converse(messages: Sequence[Message], question: str, field: str, last_user: int) -> Conversation:
    """Tell what must stay (system messages, the last user's and what follows it) from the turns before."""
    pinned = [m for i, m in enumerate(messages) if i >= last_user or m.role in ("system", "developer")]
    turns: list[list[Message]] = []
    for message in messages[:last_user]:
        if message.role in ("system", "developer"):
            continue
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return Conversation(
        pinned=tuple(pinned),
        turns=tuple(tuple(turn) for turn in turns),
        question=question,
        question_field=field,
        order=tuple(messages),
    )


class Window:
    """Fits one request: the lowest-scored passages go first, then the end of the last passage, then the oldest turns.

    ``budget`` is what of the context the prompt may take; ``extra`` what else is sent, such as tools.
    """

    def __init__(
        self,
        conversation: Conversation,
        render: Render,
        *,
        policy: EnrichPolicy,
        count: Count,
        budget: int,
        extra: int = 0,
    ) -> None:
        self._conversation, self._render = conversation, render
        self._policy, self._count, self._budget = policy, count, budget
        self._fixed = policy.reply_tokens + extra + sum(self._cost(message) for message in conversation.pinned)
        self._turns = [sum(self._cost(message) for message in turn) for turn in conversation.turns]

    def fit(self, hits: Sequence[Hit]) -> Fitted:
        """The largest prompt, in that order, that fits. Raises ``RefusedError`` when the question alone does not."""
        kept = [KeptPassage(hit=hit, text=hit.text) for hit in hits]
        while len(kept) > 1 and not self._fits(kept, 0):
            kept.pop()
        if kept and not self._fits(kept, 0):
            kept = self._cut(kept[0])
        dropped_turns = self._drop_turns(kept)
        if kept and kept[0].truncated:
            kept = [self._longest(kept[0].hit, dropped_turns)]
        return Fitted(
            system=self._system(kept),
            messages=self._conversation.without(dropped_turns),
            passages=tuple(kept),
            dropped_passages=len(hits) - len(kept),
            truncated=bool(dropped_turns) or len(kept) < len(hits) or any(passage.truncated for passage in kept),
            tokens=self._tokens(kept, dropped_turns),
        )

    def _cut(self, passage: KeptPassage) -> list[KeptPassage]:
        """The passage at its shortest, or none where even that leaves no room for the question."""
        shortest = replace(passage, text=passage.hit.text[: self._policy.minimum_passage_chars])
        return [shortest] if self._fits([shortest], len(self._turns)) else []

    def _drop_turns(self, kept: Sequence[KeptPassage]) -> int:
        for dropped in range(len(self._turns) + 1):
            if self._fits(kept, dropped):
                return dropped
        raise self._too_long()

    def _longest(self, hit: Hit, dropped_turns: int) -> KeptPassage:
        low, high = min(len(hit.text), self._policy.minimum_passage_chars), len(hit.text)
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits([KeptPassage(hit=hit, text=hit.text[:middle])], dropped_turns):
                low = middle
            else:
                high = middle - 1
        text = hit.text[:low]
        seam = max(text.rfind(" "), text.rfind("\n"))
        # Half a word misleads a model more than a missing one.
        whole = text if low == len(hit.text) or seam < low // 2 else text[:seam]
        return KeptPassage(hit=hit, text=whole)

    def _fits(self, kept: Sequence[KeptPassage], dropped_turns: int) -> bool:
        return self._tokens(kept, dropped_turns) <= self._budget

    def _tokens(self, kept: Sequence[KeptPassage], dropped_turns: int) -> int:
        system = self._count(self._system(kept)) + self._policy.message_tokens
        return self._fixed + system + sum(self._turns[dropped_turns:])

    def _system(self, kept: Sequence[KeptPassage]) -> str:
        return self._render([shown(n, k.hit.title, k.hit.uri, k.text) for n, k in enumerate(kept, start=1)])

    def _cost(self, message: Message) -> int:
        calls = "" if message.tool_calls_json is None else inline(message.tool_calls_json, "tool_calls_json")
        text = "\n".join(part for part in (message_text(message), calls, message.name) if part)
        return self._count(text) + self._policy.message_tokens + _parts_cost(message)

    def _too_long(self) -> RefusedError:
        question, system = self._count(self._conversation.question), self._count(self._system([]))
        question += sum(_parts_cost(message) for message in self._conversation.pinned)
        field = self._conversation.question_field if question >= system else "prompt"
        return RefusedError(
            "context_too_long",
            f"{field} is too long: with everything else left out the prompt has {self._tokens([], len(self._turns))}"
            f" tokens, the route takes {self._budget}; shorten it or lower sampling.max_tokens",
            field=field,
        )


def _parts_cost(message: Message) -> int:
    """Tokens of what is no text in the message."""
    others = (part for part in message.content if part.type != "text")
    return sum(_LOW_DETAIL_TOKENS if part.detail == "low" else _PART_TOKENS for part in others)
