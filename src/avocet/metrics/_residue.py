"""Residue of machines in a caption: markup, code and special tokens, and the prompt or the assistant speaking.

What may well be quoted from a screen or a voice (tags, escapes, "as an AI") only counts outside of quotation marks;
what no video shows in running text (special tokens, code fences, JSON keys) counts anywhere, since JSON itself is full
of quotation marks. All repeats in the expressions are bounded or possessive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

INSTRUCTION_WORDS = 10
"""So many successive words of the instruction are a copy; a shorter instruction counts as a whole, from five on."""
_MIN_INSTRUCTION_WORDS = 5

_ANYWHERE = re.compile(
    r"<\|[A-Za-z_]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:image|video|audio|unk|pad|bos|eos|mask)>"  # special tokens
    r"|```"
    r"|\{[ \t\n]{0,10}[\"'][A-Za-z_ ]{1,60}[\"'][ \t]{0,3}:"  # {"caption":
    r"|^[ \t]{0,8}\"[a-z_]{1,40}\"[ \t]{0,3}:[ \t]{0,3}[\"\[{]"  # "caption": "
    r"|^[ \t]{0,8}(?:[{}]|[\[\]][{}\[\]])[\[\]{}, \t]{0,20}$"  # a line of brackets
    r"|[\"”][ \t\n]{0,10}\}"
    r"|\ufffd",  # bytes that are no character
    re.MULTILINE,
)
_TAGS = "div|span|p|br|b|i|u|li|ul|ol|h[1-6]|table|tr|td|th|a|img|html|body|strong|em|think|answer|caption|response"
_UNQUOTED = re.compile(
    rf"</?(?:{_TAGS})(?:[ /][^<>\n]{{0,200}})?>"
    r"|&(?:nbsp|amp|quot|apos|lt|gt|#[0-9]{1,6}|#x[0-9a-f]{1,6});"
    r"|\\n(?![A-Za-z])|\\u[0-9a-fA-F]{4}|\\\""  # escapes that were never undone
    r"|\\(?:text|textbf|boxed|frac|begin|mathrm)\{"
    r"|\]\(https?:"
    r"|\|[ :]{0,3}-{3,60}[ :]{0,3}\|"  # the rule of a table
    r"|^[ \t]{0,4}\*\*[^\W_][^*\n]*+$"  # bold that never ends
    r"|^[ \t]{0,8}(?:def [a-z_]{1,40}\(|import [a-z_.]{1,40}$|print\(|console\.log\()",
    re.MULTILINE,
)
_LEAKAGE = re.compile(
    # One word boundary for all: each alternative of its own would be tried at every character.
    r"\b(?:as an ai\b|as an? (?:large )?(?:language|vision|multimodal) model\b|you are a helpful assistant\b"
    r"|system prompt\b|the (?:user|prompt) (?:asks?|asked|wants?|wanted|requests?|requested)\b"
    r"|i(?: am|['’]m) (?:unable to|not able to) (?:view|watch|see|hear|listen|access|process|analy[sz]e)\b"
    r"|i (?:cannot|can['’]t) (?:(?:directly|actually) )?(?:view|watch|hear|listen to|access|process|analy[sz]e) "
    r"(?:the|this|any|your) (?:video|audio|clip|image|content|file)"
    r"|please (?:provide|give|write|generate) (?:a|an|the|me) (?:(?:more |very )?[a-z]{1,20} ){0,3}"
    r"(?:description|caption|account|summary) of\b"
    r"|(?:please )?describe (?:the|this) (?:video|audio|clip) (?:in (?:as much |full |great )?detail|thoroughly)"
    r"|(?:based on|according to|from) the (?:provided|given|supplied) "
    r"(?:video|audio|frames?|images?|captions?|transcripts?|descriptions?|information)\b"
    r"|let me know if you\b|feel free to ask\b|(?:i )?hope this helps\b)"
    r"|^[ \t#*]{0,6}(?=[a-z])(?:(?:user|assistant|system|human|instruction|response|output|question|answer)[ \t*]{0,3}:"
    r"|(?:sure|certainly|of course|absolutely|okay)[,!.] (?:here(?:['’]s| is| are)|i(?:['’]ll| will| can))\b"
    r"|here(?:['’]s| is) (?:a|an|the|your) (?:[a-z]{1,20} ){0,3}(?:description|caption|summary)\b)"
    r"|作为(?:一个|一名)?(?:人工智能|AI|语言模型)|请(?:详细)?描述(?:这个|该)?视频",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = re.compile(r"\w+")


def residues(text: str, mask: bytearray) -> Iterator[tuple[int, int]]:
    """(start, end) of markup and code. `mask`: `quoted_mask(text)`."""
    yield from (match.span() for match in _ANYWHERE.finditer(text))
    yield from _outside_quotes(_UNQUOTED, text, mask)


def leaked_prompts(text: str, mask: bytearray) -> Iterator[tuple[int, int]]:
    """(start, end) of words that belong to a prompt or a chat. `mask`: `quoted_mask(text)`."""
    yield from _outside_quotes(_LEAKAGE, text, mask)


def leaked_instruction(text: str, instruction: str | None) -> Iterator[tuple[int, int]]:
    """(start, end) of each copy of successive words of the instruction, in or out of quotation marks."""
    asked = [match[0].casefold() for match in _WORD.finditer(instruction or "")]
    if len(asked) < _MIN_INSTRUCTION_WORDS:
        return
    size = min(len(asked), INSTRUCTION_WORDS)
    copies = {tuple(asked[index : index + size]) for index in range(len(asked) - size + 1)}
    words = [(match[0].casefold(), match.start(), match.end()) for match in _WORD.finditer(text)]
    names = [word for word, _, _ in words]
    index = 0
    while index + size <= len(words):
        if tuple(names[index : index + size]) in copies:
            yield words[index][1], words[index + size - 1][2]
            index += size
        else:
            index += 1


def _outside_quotes(pattern: re.Pattern[str], text: str, mask: bytearray) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text):
        if mask.find(1, match.start(), match.end()) < 0:
            yield match.span()
