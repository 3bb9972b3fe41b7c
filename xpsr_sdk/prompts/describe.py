"""Asks prompt providers safely: neither their errors nor their answers can stop or spoil a restoration.

Every description is cleaned by ``clean_description``, because answers of captioners and texts in files are untrusted.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Sequence

from xpsr_sdk.contracts import Item, PromptLevel, PromptProvider, Prompts
from xpsr_sdk.errors import XPSRError, one_line, print_traceback, short
from xpsr_sdk.plugin_system.answers import blamed_on, working_on, wrong

LONGEST = 2000
"""The longest description, in characters. This is several times what a text encoder reads."""
UNABLE = r"(can't|cannot|can not|could not|couldn't|won't|will not|('m| am|'re| are) (unable|not able|not allowed) to)"
DEED = (
    r"(assist|help|comply|fulfil|provide|describe|process|analy[sz]e|evaluate|identify|answer|do (that|this)"
    r"|(see|view|open|access) ((the|this|that|any|your|an) )?(image|photo|picture|attachment))"
)
REFUSAL = re.compile(
    r"\W*("
    r"((i'm|i am|we're|we are) )?((very|so|truly) )?sorry\b[,.:;!]? (but|for|that|i|we|this|the|it|as|no)\b"
    r"|((my|i|we) )?apolog(ies|i[sz]e)\b"
    rf"|(unfortunately,? )?(i|we) ?{UNABLE} {DEED}\b"
    r"|as an? (ai|artificial|language|large language)\b"
    r"|i (don't|do not) (see|have) ((access to|an|any|the) )+(image|photo|picture|attachment)"
    r")",
    re.IGNORECASE,
)
"""Matches the beginning of a refusal."""


ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])")
"""Matches control sequences of terminals (ECMA-48), such as colours and window titles. If the end is missing, only the
beginning is matched."""


def describe(provider: PromptProvider, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
    """The provider's descriptions of the items, cleaned. Errors are reported, not raised.

    Returns:
        One ``Prompts`` for each item. Each level has a description, an error, or neither if it is not offered.
    """
    try:
        with working_on(""):  # the photo is named by whoever tells of the error
            with blamed_on("prompt_provider", provider):
                given = provider.describe(items, levels)
                answers = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else None
            if answers is None:
                raise wrong("prompt_provider", provider, f"gave {short(given)}, not a list of Prompts")
            if len(answers) != len(items):
                raise wrong("prompt_provider", provider, f"gave {len(answers)} answers for {len(items)} images")
            return [_checked(answer, levels, provider) for answer in answers]
    except Exception as error:  # a captioner must not stop a restoration
        print_traceback()
        reason = str(error) if isinstance(error, XPSRError) else one_line(error)
        return [Prompts(errors=dict.fromkeys(levels, printable(reason)))] * len(items)


def joined(answers: Sequence[Prompts]) -> Prompts:
    """Answers about views of one photo as one: of each level, the first description, and all errors."""
    return Prompts(
        next((said.high for said in answers if said.high is not None), None),
        next((said.low for said in answers if said.low is not None), None),
        {level: who for said in answers for level, who in said.source.items()},
        {level: why for said in answers for level, why in said.errors.items()},
    )


def _checked(answer: object, levels: Collection[PromptLevel], provider: PromptProvider) -> Prompts:
    """One answer of the provider's with clean descriptions of the asked levels."""
    if not isinstance(answer, Prompts):
        raise wrong("prompt_provider", provider, f"gave a {type(answer).__name__} as an answer, not Prompts")
    texts: dict[PromptLevel, str] = {}
    errors: dict[PromptLevel, str] = {}
    for level in levels:
        text = getattr(answer, level)
        if text is None:
            if level in answer.errors:
                errors[level] = printable(str(answer.errors[level]))
            continue
        try:
            texts[level] = clean_description(text)
        except ValueError as error:
            errors[level] = str(error)
    source = {level: printable(str(answer.source.get(level) or type(provider).__name__)) for level in texts}
    return Prompts(texts.get("high"), texts.get("low"), source, errors)


def clean_description(text: str | bytes) -> str:
    """A description as plain text in one line.

    - ``""`` stays: with it, a user or a file says that there should be no text.
    - Bytes are read as UTF-8, or as UTF-16 if they begin with its byte-order mark. Invalid bytes are left out. Zero
      bytes mean that it is not text.
    - Control sequences of terminals, such as colours and window titles, are left out.
    - Control, format and private characters and lone surrogates become spaces; several spaces become one.
    - ``<|``, with which the special tokens of text encoders begin, becomes ``< |``.
    - A text longer than ``LONGEST`` characters is cut at a space, with a warning.

    Raises:
        ValueError: It is not text, nothing is left of it, or it is a refusal ("I'm sorry, I can't ...").
    """
    if not isinstance(text, str | bytes):
        raise ValueError(f"The description is a {type(text).__name__}, not text.")
    if not text:
        return ""
    if isinstance(text, bytes):
        text = _decoded(text)
    clean = printable(text[: 10 * LONGEST])  # limits the time for an enormous answer
    if not clean:
        raise ValueError("The description is empty.")
    if REFUSAL.match(clean.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
        raise ValueError(f"The provider refused: {clean[:100]!r}.")
    if len(clean) > LONGEST:
        clean = clean[: LONGEST + 1].rpartition(" ")[0] or clean[:LONGEST]
        warnings.warn(
            f"A description of {len(text)} characters was cut to {len(clean)}: {clean[:60]!r}...", stacklevel=2
        )
    return clean


def printable(text: str) -> str:
    """Text in one line, without invisible characters and without control sequences of terminals and tokenizers."""
    text = ESCAPE.sub(" ", text)
    seen = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text)
    return " ".join(seen.replace("\N{REPLACEMENT CHARACTER}", "").replace("<|", "< |").split())


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", errors="replace")
    else:
        text = content.decode("utf-8-sig", errors="replace")
    if "\0" in text:
        raise ValueError("The description is not text: it holds zero bytes.")
    return text
