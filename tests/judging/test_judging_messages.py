"""Messages on the wire, estimates of their size, and files that cannot be sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from avocet.errors import ConfigError, RecordError
from avocet.judging import AudioPart, CallParameters, ChatRequest, ImagePart, Message, ReplySchema, TextPart, VideoPart
from avocet.judging.messages import MAX_INLINE_BYTES


def test_texts_of_one_message_go_as_one_string() -> None:
    message = Message(role="user", parts=(TextPart(text="a"), TextPart(text="b")))
    assert message.wire() == {"role": "user", "content": "a\n\nb"}


def test_estimates_of_tokens() -> None:
    parts = (
        TextPart(text="1234"),  # 4 bytes: 2
        TextPart(text="日本"),  # 6 bytes: 2
        ImagePart(url="data:,"),  # 1200
        AudioPart(data="", format="wav", duration_seconds=1.5),  # 48
        VideoPart(url="https://x", duration_seconds=10.0),  # 3000
    )
    request = ChatRequest(messages=(Message(role="user", parts=parts),))
    assert request.estimated_prompt_tokens == 8 + 2 + 2 + 1200 + 48 + 3000
    with_schema = ChatRequest(messages=request.messages, schema=ReplySchema(name="x", schema={}))
    assert with_schema.estimated_prompt_tokens > request.estimated_prompt_tokens


def test_the_token_limit_goes_by_two_names() -> None:
    assert CallParameters(max_tokens=5).wire() == {"temperature": 0.0, "max_tokens": 5}
    parameters = CallParameters(temperature=None, max_tokens=5, token_limit_field="max_completion_tokens")
    assert parameters.wire() == {"max_completion_tokens": 5}


def test_files_become_data_uris(tmp_path: Path) -> None:
    for name in ("a.PNG", "a.mp4", "a.wav"):
        (tmp_path / name).write_bytes(b"abc")
    assert ImagePart.from_file(tmp_path / "a.PNG").url == "data:image/png;base64,YWJj"
    assert VideoPart.from_file(tmp_path / "a.mp4", 1.0).url == "data:video/mp4;base64,YWJj"
    sound = AudioPart.from_file(tmp_path / "a.wav", 1.0)
    assert (sound.data, sound.format) == ("YWJj", "wav")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "cannot be read .No such file"),
        ("a.txt", r"only \.mp4, .*can be sent here"),
        ("large.mp4", "20,000,001 bytes of .*are too many to be sent inline"),
    ],
)
def test_files_that_cannot_be_sent(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    with (tmp_path / "large.mp4").open("wb") as large:
        large.truncate(MAX_INLINE_BYTES + 1)
    with pytest.raises(ConfigError, match=message):
        VideoPart.from_file(tmp_path / name, 1.0)


def test_bytes_that_are_too_many() -> None:
    with pytest.raises(ConfigError, match="20,000,001 bytes of image are too many"):
        ImagePart.from_bytes(bytes(MAX_INLINE_BYTES + 1))


def test_messages_that_are_none() -> None:
    with pytest.raises(RecordError, match="role must be one of system, user, assistant, got 'tool'"):
        Message.of_text("tool", "x")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="needs at least one part"):
        Message(role="user", parts=())
    with pytest.raises(RecordError, match=r"not valid Unicode text .*pass text from outside through"):
        TextPart(text="a\ud800")


def test_keys_do_not_depend_on_who_asks_or_on_the_order_of_fields() -> None:
    messages = (Message.of_text("user", "x"),)
    one = ChatRequest(messages=messages, judge="a", parameters=CallParameters(extra={"p": 1, "q": 2}))
    other = ChatRequest(messages=messages, judge="b", is_reask=True, parameters=CallParameters(extra={"q": 2, "p": 1}))
    assert one.key("m") == other.key("m")
    assert len(one.key("m")) == 64
