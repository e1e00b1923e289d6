"""Special tokens that a text spells: read as text, read as tokens, or the ends of documents."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from vasae_jax.lm.chat import is_conversation
from vasae_jax.lm.tokenizer import Tokenizer
from vasae_jax.utils.errors import UserError

MODES = ("text", "parse", "split")
MOST_NAMED = 5
"""Special tokens that are named with their numbers; the others are added up."""
_READ = {
    "text": "read as plain text (--special-tokens of the extraction tools: parse reads them as "
    "tokens, split cuts documents there)",
    "parse": "read as tokens",
    "split": "left out, and documents cut there",
}


class Chat(str):
    """A conversation in the model's chat template, whose special tokens are always tokens."""


class TextReader:
    """Documents made ready for a model's tokenizer, and their token ids.

    Args:
        tokenizer: of the model.
        mode: what becomes of special tokens that a text spells: ``text`` keeps them as plain
            characters, ``parse`` makes them tokens, ``split`` ends a document at each.
    """

    def __init__(self, tokenizer: Tokenizer, mode: str) -> None:
        self._tokenizer, self._mode = tokenizer, mode
        self.counts: Counter[str] = Counter()
        self.conversations = 0

    def documents(self, source: Iterable[Any]) -> Iterator[Any]:
        """The documents of ``source``: lists of messages as text, texts cut where the mode says.

        Raises:
            UserError: a list of messages, and no template or one that cannot be applied.
        """
        for number, document in enumerate(source):
            if is_conversation(document):
                yield self._conversation(document, number)
            elif isinstance(document, str):
                yield from self._pieces(document)
            else:
                yield document

    def encode(self, text: str) -> list[int]:
        """The token ids of a document."""
        special = isinstance(text, Chat) or self._mode == "parse"
        return self._tokenizer.encode(text, special=special)

    def summary(self) -> str:
        """What became of special tokens and conversations; empty where there were none."""
        lines = []
        if self.counts:
            named = self.counts.most_common(MOST_NAMED)
            others = self.counts.total() - sum(count for _, count in named)
            names = [f"{count:,} {name}" for name, count in named]
            names += [f"{others:,} others"] if others else []
            lines.append(
                f"the text spells {self.counts.total():,} special tokens ({', '.join(names)}): "
                f"{_READ[self._mode]}"
            )
        if self.conversations:
            lines.append(f"{self.conversations:,} conversations put into the chat template")
        return "\n".join(lines)

    def _conversation(self, messages: list[dict[str, str]], number: int) -> Chat:
        if self._tokenizer.chat is None:
            raise UserError(
                f"document {number} (from 0) is a list of messages and the model has no chat "
                "template; expected text, or a model with one"
            )
        self.conversations += 1
        try:
            return Chat(self._tokenizer.chat.render(messages))
        except UserError as error:
            raise UserError(f"document {number} (from 0): {error}") from error

    def _pieces(self, text: str) -> Iterator[str]:
        parts = self._tokenizer.split_special(text)
        self.counts.update(parts[1::2])
        if self._mode == "split" and len(parts) > 1:
            yield from (part for part in parts[::2] if part.strip())
        else:
            yield text
