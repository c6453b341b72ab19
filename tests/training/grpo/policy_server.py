"""A real HTTP server on loopback that captions with a tiny model behind the fields that vLLM and SGLang use.

It decodes the media of each request, runs the model and answers with token ids and log-probabilities. It loads merged
checkpoints and adapters from the paths that it is told, and it can be made to lie.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from avocet.media import open_clip
from avocet.models.interface import Completion
from avocet.models.registry import load_model
from avocet.records import Sampling
from avocet.training.finetune.export import load_adapter_folder

Reply = dict[str, Any]


class PolicyServer:
    """`make()` gives the model that it starts with; adapters come on top of another `make()`."""

    def __init__(self, make: Callable[[], Any], dialect: str = "vllm") -> None:
        self.make = make
        self.dialect = dialect
        self.adapters: dict[str, Any] = {}
        self.base = make()
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.is_deaf = False
        """Drops the sound of what it is sent."""
        self.ignores_weights = False
        """Says that it has loaded new weights, and has not."""
        self.change: Callable[[Reply], Reply] = lambda reply: reply
        """What becomes of a reply before it is sent."""
        self.clip_of: dict[str, str] = {}
        """Instruction -> the id of the clip that it asks about, which decides the random numbers."""
        self.failures: list[int] = []
        """Status of the next replies instead of an answer; 0 cuts the connection."""
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
                with owner._lock:
                    owner.calls.append((self.path, body))
                    status, reply = owner._answer(self.path, body)
                if status == 0:
                    self.connection.close()
                    self.close_connection = True
                    return
                data = json.dumps(reply).encode()
                with contextlib.suppress(ConnectionError):  # the client has hung up, which some tests make it do
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> PolicyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join(10)
        self._http.server_close()

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, Reply]:
        if self.failures:
            status = self.failures.pop(0)
            return status, {"error": {"message": f"told to fail with {status}"}}
        if path == "/v1/chat/completions":
            return self._chat(body)
        if path == "/v1/load_lora_adapter":
            self.adapters[body["lora_name"]] = model = self.make()
            if not self.ignores_weights:
                load_adapter_folder(model, Path(body["lora_path"]))
        elif path == "/v1/unload_lora_adapter":
            del self.adapters[body["lora_name"]]
        elif path in ("/collective_rpc", "/update_weights_from_disk"):
            if not self.ignores_weights:
                folder = body["model_path"] if "model_path" in body else body["kwargs"]["weights_path"]
                self.base = load_model(folder, device="cpu", dtype="float32").model
        elif path == "/refuse":
            return 200, {"success": False, "message": "busy"}
        elif not path.startswith("/reset_"):
            return 404, {"error": {"message": "Not Found"}}
        return 200, {"success": True}

    def _chat(self, body: dict[str, Any]) -> tuple[int, Reply]:
        model = self.adapters.get(body["model"], self.base if body["model"] == "policy" else None)
        if model is None:
            return 404, {"error": {"message": f"The model {body['model']} does not exist."}}
        content = body["messages"][-1]["content"]
        prompt = self._prompt(model, content[0], content[-1]["text"])
        sampling = Sampling(
            max_new_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            repetition_guard="off",
        )
        with model.evaluating():
            prefix = model.encode([prompt])
        # The same random numbers as in process, so that tokens can be compared.
        prefix = dataclasses.replace(
            prefix, clip_ids=(f"{body['seed']}/{self.clip_of.get(prompt.instruction, 'clip')}",)
        )
        group = model.generate(prefix, body["n"], sampling)[0]
        choices = [self._choice(model, index, one) for index, one in enumerate(group)]
        reply: Reply = {"choices": choices}
        if body.get("return_token_ids") and self.dialect == "vllm":
            reply["prompt_token_ids"] = list(prompt.token_ids)
        return 200, self.change(reply)

    def _prompt(self, model: Any, part: dict[str, Any], text: str) -> Any:
        url = part[part["type"]]["url"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sent"
            path.write_bytes(base64.b64decode(url.partition(",")[2]))
            clip = open_clip(
                str(path), fps=model.clip_fps, max_frames=model.max_frames, audio="ignore" if self.is_deaf else "auto"
            )
        return model.prepare(clip, text)

    def _choice(self, model: Any, index: int, completion: Completion) -> Reply:
        ids = list(completion.token_ids)
        assert completion.logps is not None
        tokens = [model.tokenizer.decode([token]) for token in ids]
        entries = [
            {"token": token, "logprob": value, "bytes": None}
            for token, value in zip(tokens, completion.logps.tolist(), strict=True)
        ]
        choice = {
            "index": index,
            "message": {"role": "assistant", "content": model.tokenizer.decode(ids, skip_special_tokens=True)},
            "finish_reason": "stop" if completion.stop_reason == "end" else "length",
            "logprobs": {"content": entries},
        }
        return choice | ({"token_ids": ids} if self.dialect == "vllm" else {})
