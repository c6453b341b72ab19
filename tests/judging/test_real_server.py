"""The client against a server that is not ours: transformers' own, with a tiny random chat model."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from avocet.judging.cache import ReplyCache
from avocet.judging.client import ClientSettings, JudgeClient
from avocet.judging.completeness import CompletenessJudge, FusedCaption
from avocet.judging.messages import CallParameters, ChatRequest, Message
from avocet.models.qwen_omni.tiny import tiny_tokenizer

pytestmark = pytest.mark.slow

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def write_chat_model(folder: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = tiny_tokenizer("qwen2.5-omni")
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, str]]:
    """(base URL, model name) of a running server."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    write_chat_model(folder)
    port = free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--port", str(port), "--device", "cpu"]
    log = folder.parent / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={"HF_HUB_OFFLINE": "1", "PATH": ""})
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            process.terminate()
            process.wait(timeout=20)


def test_a_question_and_its_answer(server, tmp_path):
    base_url, model = server
    parameters = CallParameters(max_tokens=8)
    question = ChatRequest(messages=(Message.of_text("user", "Describe this video."),), parameters=parameters)
    with ReplyCache(tmp_path / "cache.sqlite") as cache:
        client = JudgeClient(model, base_url=base_url, api_key="none", cache=cache)

        async def ask() -> list:
            replies = [await client.complete(question) for _ in range(2)]
            await client.disconnect()
            return replies

        first, second = asyncio.run(ask())
    assert first.text
    assert (first.finish_reason, first.usage.completion_tokens) == ("length", 8)
    # Greedy, so the same text again; a reply that was cut off is no good answer and is not kept.
    assert (first.from_cache, second.from_cache, second.text) == (False, False, first.text)
    assert client.summary().total["calls"] == 2


def test_a_judge_that_writes_nonsense_leaves_items_unscored(server):
    base_url, model = server
    client = JudgeClient(model, base_url=base_url, api_key="none", settings=ClientSettings(concurrency=2))
    judge = CompletenessJudge(client, parameters=CallParameters(max_tokens=16))
    items = [FusedCaption(clip_id=name, caption="A dog barks.", sources=("A dog.", "Barking.")) for name in "ab"]
    (verdicts,) = judge.judge_many(items)
    assert [verdict.status for verdict in verdicts] == ["unscored", "unscored"]
    assert all(verdict.reason and verdict.raw_reply for verdict in verdicts)
