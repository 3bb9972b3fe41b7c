"""Asks a vision-language model behind an OpenAI-compatible endpoint: vLLM, SGLang, Ollama, llama.cpp or a service."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image
from pydantic import Field

from xpsr_sdk.builtin.careful_http import careful_client
from xpsr_sdk.contracts import PROMPT_LEVELS, Item, PromptKey, PromptLevel, Prompts
from xpsr_sdk.errors import ConfigError, one_line, without_secret
from xpsr_sdk.prompts.captioner import (
    Answer,
    CaptionerOptions,
    as_prompts,
    need_package,
    shrunk,
    without_thoughts,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

NO_KEY = "none"
"""Sent as the key if the environment has none. Local servers do not check the key."""
OWN_VARIABLE = "OPENAI_API_KEY"
"""Whose key may be sent to OpenAI, to the endpoint in OPENAI_BASE_URL and to this machine."""
ALLOWED_VARIABLES = "XPSR_API_KEY_VARIABLES"
"""Names, with commas between, of the variables whose keys may be sent to any endpoint that the options name."""
PLACEHOLDERS = ("none", "empty", "ollama")
"""What people give local servers as a key: words that may stand in any text. Other keys are removed from all texts."""
OWN_HOSTS = ("api.openai.com", "localhost", "127.0.0.1", "::1")
FIRST_WAIT = 0.5
"""Seconds before a question is asked for the second time. The wait doubles each time."""


class BadReply(Exception):
    """The endpoint's answer cannot be used. The question is asked again."""


class Withheld(Exception):
    """The model or the endpoint refuses to answer. The question is not asked again."""


class OpenAICaptioner:
    """Sends each photo with a question to ``/chat/completions``, several at a time.

    It tries again after dropped connections, time-outs, answers that are not JSON, and the statuses 408, 409, 429 and
    5xx. The wait doubles each time, unless the server says how long to wait.
    """

    class Config(CaptionerOptions):
        """The endpoint and its model. The key is read from the environment only."""

        model: str = Field(min_length=1, description="The model's name at the endpoint.")
        low_model: str | None = Field(
            None, min_length=1, description="Model that is asked about the quality. None: the same one."
        )
        base_url: str | None = Field(
            None,
            pattern="^https?://",
            description="The endpoint: http://localhost:8000/v1. None: that of OPENAI_BASE_URL, or OpenAI.",
        )
        api_key_variable: str = Field(
            OWN_VARIABLE,
            min_length=1,
            description="Environment variable that holds the key, if one is needed. Another one than this must be "
            f"listed in the environment variable {ALLOWED_VARIABLES}.",
        )
        timeout: float = Field(60, gt=0, le=1_000_000, description="Seconds to wait for an answer, at each try.")
        max_retries: int = Field(3, ge=0, description="How often a question that failed is asked again.")
        concurrency: int = Field(4, ge=1, description="Questions at a time.")
        request: dict[str, Any] = Field(
            {"temperature": 0}, description="Further fields of the request. By default answers are greedy."
        )

    def __init__(self, config: Config) -> None:
        need_package("openai", "openai", "The prompt provider 'openai'")
        self.config = config
        self._key()  # raises an error now if the key is invalid

    def prompt_key(self, level: PromptLevel) -> PromptKey:
        """The model and the question. The endpoint is left out, since it may change."""
        return PromptKey("openai", self._model_of(level), self.config.question(level))

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        """The answers to the questions of the given levels. Failures are reported in ``Prompts.errors``."""
        asked = [level for level in PROMPT_LEVELS if level in levels]
        from anyio.from_thread import start_blocking_portal  # anyio is installed with openai

        # This thread may already run an event loop, as in notebooks, so another thread is used. Ctrl-C cancels the
        # questions.
        with start_blocking_portal() as portal:
            answers = portal.call(self._ask_all, items, asked)
        return as_prompts(len(items), answers, {level: self._model_of(level) for level in asked})

    def unload(self) -> None:
        """Do nothing, since the model is not in this process."""

    def _model_of(self, level: PromptLevel) -> str:
        return (self.config.low_model if level == "low" else None) or self.config.model

    def _key(self) -> str:
        """The key, without white space around it; empty if there is none."""
        key = os.environ.get(self.config.api_key_variable, "").strip()
        self._check_permission(key)
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(
                f"The key in {self.config.api_key_variable} holds characters that are not allowed in keys."
            )
        return key

    def _check_permission(self, key: str) -> None:
        """Raise ``ConfigError`` if a config file alone would send a key from the environment to an endpoint."""
        variable, url = self.config.api_key_variable, self.config.base_url
        allowed = [name.strip() for name in os.environ.get(ALLOWED_VARIABLES, "").split(",")]
        if variable in allowed:
            return
        if variable != OWN_VARIABLE:
            raise ConfigError(
                f"api_key_variable is {variable!r}, which is not allowed: set {ALLOWED_VARIABLES}={variable} in the "
                "environment, if its key may be sent to the endpoint."
            )
        if key and url and url != os.environ.get("OPENAI_BASE_URL") and urlsplit(url).hostname not in OWN_HOSTS:
            raise ConfigError(
                f"The key in {variable} is not sent to {url} without your permission: set {ALLOWED_VARIABLES}="
                f"{variable} in the environment, or unset {variable} if the endpoint needs no key."
            )

    async def _ask_all(self, items: Sequence[Item], levels: Sequence[PromptLevel]) -> dict[PromptLevel, list[Answer]]:
        from openai import AsyncOpenAI

        config, key = self.config, self._key()
        secret = "" if key.lower() in PLACEHOLDERS else key
        slots = asyncio.Semaphore(config.concurrency)
        async with AsyncOpenAI(
            api_key=key or NO_KEY,
            base_url=config.base_url,
            timeout=config.timeout,
            max_retries=config.max_retries,
            http_client=careful_client(),
        ) as client:

            async def answer(item: Item, level: PromptLevel) -> Answer:
                async with slots:
                    try:
                        text = without_thoughts(await self._ask(client, item.image, level), config.question(level))
                        return Answer(without_secret(text, secret))
                    except Exception as error:
                        return Answer(error=f"{self._model_of(level)}: {_reason(error, secret)}")

            answers = await asyncio.gather(*(answer(item, level) for level in levels for item in items))
        return {level: answers[i * len(items) :][: len(items)] for i, level in enumerate(levels)}

    async def _ask(self, client: AsyncOpenAI, image: Image.Image, level: PromptLevel) -> str:
        """Ask one question. An answer that is not usable, which the client does not notice, is asked for again."""
        config = self.config
        picture = {"type": "image_url", "image_url": {"url": _data_url(shrunk(image, config.max_side))}}
        question = {"type": "text", "text": config.question(level)}
        messages: Any = [{"role": "user", "content": [picture, question]}]
        request: dict[str, Any] = {"max_tokens": config.max_new_tokens, **config.request}
        if "max_completion_tokens" in request:  # OpenAI's newest models accept only this name
            del request["max_tokens"]
        # The client's own timeout does not limit an answer that arrives very slowly.
        async with asyncio.timeout(config.timeout * (config.max_retries + 1)):
            for tries in range(config.max_retries + 1):
                try:
                    reply = await client.chat.completions.with_raw_response.create(
                        model=self._model_of(level), messages=messages, **request
                    )
                    return _text_of(reply.content)
                except BadReply:
                    if tries == config.max_retries:
                        raise
                    await asyncio.sleep(FIRST_WAIT * 2**tries)
        raise AssertionError


def _text_of(reply: bytes) -> str:
    """The text of the model's answer.

    Raises:
        BadReply: The reply is not JSON, or not a chat completion.
        Withheld: The model refused, or stopped before it had written anything.
    """
    try:
        choice = json.loads(reply)["choices"][0]
        message, finish_reason = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
        if isinstance(text, list):  # a list of parts, some of which may not be text
            text = " ".join(part["text"] for part in text if part["type"] == "text")
        text = "" if text is None else text + ""
    except (ValueError, RecursionError) as error:
        raise BadReply(f"the endpoint's answer is not JSON: {error}: {reply.decode(errors='replace')}") from None
    except (LookupError, TypeError, AttributeError):
        raise BadReply(f"the endpoint's answer is not a chat completion: {reply.decode(errors='replace')}") from None
    if refusal:
        raise Withheld(f"the model refused: {refusal}")
    if finish_reason == "content_filter" or (not text.strip() and finish_reason not in (None, "stop")):
        raise Withheld(f"the answer was not finished, since finish_reason is {finish_reason!r}")
    return text


def _data_url(image: Image.Image) -> str:
    """The image as a data URL, in a JPEG quality that adds almost no artifacts, since the model judges the quality."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _reason(error: Exception, secret: str) -> str:
    """Why there is no answer, in one line, without the secret key."""
    if isinstance(error, TimeoutError):
        return "no answer came in time"
    reason = one_line(error, secret)
    if isinstance(error, BadReply | Withheld):
        return reason.partition(": ")[2]
    return reason + (f" ({one_line(error.__cause__, secret)})" if error.__cause__ else "")
