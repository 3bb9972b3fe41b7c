"""Asks prompt providers in such a way that neither their errors nor their answers can stop or spoil a restoration.

Every description goes through ``clean_description``, whoever gave it: what a captioner says, or what stands in a file,
is data.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
import warnings
from collections.abc import Collection, Sequence

from xpsr_sdk.contracts import Item, PromptLevel, PromptProvider, Prompts
from xpsr_sdk.errors import one_line

LONGEST = 2000
"""Characters of a description that are kept: several times what a text encoder reads."""
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
"""How a refusal begins."""


ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])")
"""What a terminal takes for a command (ECMA-48): colours, the window's title; of one without an end, the beginning."""


def describe(provider: PromptProvider, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
    """What the provider says of each item, cleaned; whatever goes wrong costs the descriptions only.

    Returns:
        One for each item, with a description, an error, or neither (it is not offered), at each asked level.
    """
    try:
        said = list(provider.describe(items, levels))
        if len(said) != len(items):
            raise TypeError(f"the provider gave {len(said)} answers for {len(items)} images")
    except Exception as error:  # a captioner must not stop a restoration
        return [Prompts(errors=dict.fromkeys(levels, printable(one_line(error))))] * len(items)
    return [_checked(prompts, levels, type(provider).__name__) for prompts in said]


def _checked(said: object, levels: Collection[PromptLevel], name: str) -> Prompts:
    """One provider's answer with clean descriptions of the asked levels."""
    if not isinstance(said, Prompts):
        return Prompts(
            errors=dict.fromkeys(levels, f"TypeError: the provider gave a {type(said).__name__}, not Prompts")
        )
    texts: dict[PromptLevel, str] = {}
    errors: dict[PromptLevel, str] = {}
    for level in levels:
        text = getattr(said, level)
        if text is None:
            if level in said.errors:
                errors[level] = printable(str(said.errors[level]))
            continue
        try:
            texts[level] = clean_description(text)
        except ValueError as error:
            errors[level] = str(error)
    source = {level: printable(str(said.source.get(level) or name)) for level in texts}
    return Prompts(texts.get("high"), texts.get("low"), source, errors)


def clean_description(text: str | bytes) -> str:
    """A description as plain text in one line.

    - ``""`` stays: that is how a user or a file says that there is to be no text.
    - Bytes are read as UTF-8 (or UTF-16, with its mark); bytes that are neither are left out. Zero bytes are no text.
    - A terminal's commands are left out: colours, the window's title.
    - Control and format characters, private ones and half surrogates become spaces, and runs of blanks one space.
    - ``<|``, with which the special tokens of text encoders begin, becomes ``< |``.
    - What goes beyond ``LONGEST`` characters is cut at a blank, with a warning.

    Raises:
        ValueError: It is no text, nothing is left of it, or it is a refusal ("I'm sorry, I can't ...").
    """
    if not isinstance(text, str | bytes):
        raise ValueError(f"The description is a {type(text).__name__}, not text.")
    if not text:
        return ""
    if isinstance(text, bytes):
        text = _decoded(text)
    clean = printable(text[: 10 * LONGEST])  # an enormous answer is not gone through to its end
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
    """Text without anything that is not to be seen, in one line, which no terminal or tokenizer takes for a command."""
    text = ESCAPE.sub(" ", text)
    seen = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text)
    return " ".join(seen.replace("\N{REPLACEMENT CHARACTER}", "").replace("<|", "< |").split())


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", errors="replace")
    else:
        text = content.decode("utf-8-sig", errors="replace")
    if "\0" in text:
        raise ValueError("The description is no text: it holds zero bytes.")
    return text
