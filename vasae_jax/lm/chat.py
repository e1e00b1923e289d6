"""Conversations as text, by the chat template of a model's tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from gguf import Keys

from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.read_json import MAX_BYTES, read_bounded

FILE = "chat_template.jinja"
DATE = "26 Jul 2024"
"""The date in Llama 3's templates, which they fall back to themselves: the same text gives the same
tokens on any day. Templates that ask for today's date and nothing else still get it."""

Message = Mapping[str, str]
"""A message of a conversation: its ``role``, its ``content`` and what else the template reads."""


def is_conversation(value: object) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def _is_message(value: object) -> bool:
    keys = ("role", "content")
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in keys)


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a model.

    Attributes:
        source: in Jinja.
        tokens: special tokens by the names that a template has for them, such as ``bos_token``.
    """

    source: str
    tokens: Mapping[str, str]

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation as text in which special tokens are spelled out.

        Raises:
            UserError: jinja2 is not installed, or the template cannot be applied to it.
        """
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template
        try:
            (text,), _ = render(
                conversations=[list(messages)],
                chat_template=self.source,
                date_string=DATE,
                **self.tokens,
            )
            text.encode()
        except ImportError as error:
            raise UserError(
                f"a conversation needs jinja2 ({first_line(error)}); expected: pip install jinja2"
            ) from error
        except Exception as error:  # whatever a template raises
            raise UserError(
                f"the model's chat template cannot be applied ({first_line(error)}); expected "
                "messages with the roles that it knows"
            ) from error
        return str(text)


def template_from_directory(
    directory: Path, settings: Mapping[str, Any], tokens: Mapping[str, str]
) -> ChatTemplate | None:
    """The template in ``chat_template.jinja``, else in ``tokenizer_config.json``, or None.

    Args:
        directory: a Hugging Face directory.
        settings: its ``tokenizer_config.json``.
        tokens: the BOS and EOS tokens, which count more than those of the settings.

    Raises:
        UserError: the file is no text, or larger than templates are.
    """
    file, source = directory / FILE, settings.get("chat_template")
    if file.is_file():
        try:
            source = read_bounded(file, "a chat template", MAX_BYTES).decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file} is not UTF-8 (byte {error.start}); expected a chat template"
            ) from error
    if isinstance(source, list):  # several, of which one has this name
        items = [item for item in source if isinstance(item, dict)]
        source = next((i.get("template") for i in items if i.get("name") == "default"), None)
    if not isinstance(source, str):
        return None
    contents = {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in settings.items()
        if name.endswith("_token")
    }
    written = {name: token for name, token in contents.items() if isinstance(token, str)}
    return ChatTemplate(source, {**written, **tokens})


def template_from_gguf(file: GgufFile, backend: tokenizers.Tokenizer) -> ChatTemplate | None:
    """The template of GGUF metadata, or None."""
    source = file.get(Keys.Tokenizer.CHAT_TEMPLATE)
    if not isinstance(source, str):
        return None
    keys = {
        "bos_token": Keys.Tokenizer.BOS_ID,
        "eos_token": Keys.Tokenizer.EOS_ID,
        "unk_token": Keys.Tokenizer.UNK_ID,
        "pad_token": Keys.Tokenizer.PAD_ID,
    }
    ids = {name: file.get(key) for name, key in keys.items()}
    tokens = {name: backend.id_to_token(i) for name, i in ids.items() if isinstance(i, int)}
    return ChatTemplate(source, {name: token for name, token in tokens.items() if token})
