"""Teachers that know the truth: a script for the loopback server (tests/judge_server.py).

A request is answered from what it brings. Sound is found among the known plays by correlation, pictures by their
likeness to the plays' frames, so the server knows which play it is asked about and which seconds of it; texts are taken
out of the prompt. Media that are no play are described by the hash of their bytes. What is said about a play is its
truth, but for the faults that a test plants (`Faults`), which depend on the play alone, never on the order of requests.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import io
import json
import re
import threading
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np
from judge_server import Asked, Step
from PIL import Image

from avocet.curation.checks import quoted_passages, sentences
from avocet.curation.teachers.replies import SHAPES, load_teacher_prompt
from avocet.judging.prompts import load_prompt
from avocet.theatre import Script, reference_caption
from avocet.theatre.language import NO_SOUND, sound_caption, transcript
from avocet.theatre.parser import parse_caption
from avocet.theatre.picture import render_frame
from avocet.theatre.sound import render_waveform

RATE = 16_000
PROMPTS = ("audio_caption", "visual_caption", "asr", "fuse_vs2", "fuse_avocado", "local_caption", *SHAPES)
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
PRICE = "2,8"
USD_PER_CALL = (100 * 2 + 10 * 8) / 1_000_000
"""At `PRICE`, USD per million tokens."""

_FIELD = re.compile(r"<([a-z-]+?)-([0-9a-f]{16})>\n(.*?)\n</\1-\2>", re.DOTALL)
_THUMB = 24
_FPS = 8.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong, and with which plays (their seeds)."""

    generic: frozenset[int] = frozenset()
    """The audio caption says that somebody speaks, and no more."""
    no_speech: frozenset[int] = frozenset()
    """The recogniser hears nothing."""
    nonsense: frozenset[int] = frozenset()
    """The recogniser runs in a loop."""
    misheard: frozenset[int] = frozenset()
    """The recogniser writes other words."""
    loses_once: frozenset[int] = frozenset()
    """The first fusion leaves the first sentence out."""
    loses_always: frozenset[int] = frozenset()
    repeats: frozenset[int] = frozenset()
    """The fusion comes three times over."""
    invents_sound: frozenset[int] = frozenset()
    """The fusion tells of a gong."""
    contradicts: frozenset[int] = frozenset()
    """The captions of picture and sound contradict each other."""
    unread_once: frozenset[int] = frozenset()
    """The first list of events (or checklist) is no JSON."""
    unread_always: frozenset[int] = frozenset()
    incomplete: frozenset[int] = frozenset()
    """The judge gives 3 points."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Play:
    """A script with what it looks and sounds like."""

    script: Script
    waveform: np.ndarray
    thumbs: np.ndarray
    """float32 (T, 24, 24, 3): the frames at 8 per second."""

    @classmethod
    @functools.cache
    def of(cls, script: Script) -> Play:
        times = np.arange(int(script.duration_seconds * _FPS)) / _FPS
        frames = [_thumb(render_frame(script, float(time))) for time in times]
        return cls(script=script, waveform=render_waveform(script), thumbs=np.stack(frames))

    def part(self, start: float, end: float) -> Script:
        """The script with the events of an interval only."""
        events = [one for one in self.script.events if one.start_seconds < end - 0.2 and one.end_seconds > start + 0.2]
        return dataclasses.replace(self.script, events=tuple(events))


class ScriptedTeachers:
    """Call it with a request of `JudgeServer`. `asked` lists (prompt, seed of the play or None)."""

    def __init__(self, scripts: Sequence[Script], faults: Faults | None = None) -> None:
        self.plays = [Play.of(script) for script in scripts]
        self.faults = faults or Faults()
        self.asked: list[tuple[str, int | None]] = []
        self.bodies: list[str] = []
        """Hash of each request, in the order in which they came."""
        self.latency_seconds = 0.0
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Step:
        prompt = _prompt_of(asked)
        body = hashlib.sha256(json.dumps(asked.body, sort_keys=True).encode()).hexdigest()
        with self._lock:
            number = self._seen[body] = self._seen.get(body, 0) + 1
            self.bodies.append(body)
        fields = {name.replace("-", "_"): text for name, _, text in _FIELD.findall(asked.text)}
        seed, text = self._answer(prompt, asked, fields, number)
        with self._lock:
            self.asked.append((prompt, seed))
        return Step(text=text, usage=USAGE, latency_seconds=self.latency_seconds)

    def count(self, prompt: str) -> int:
        return sum(name == prompt for name, _ in self.asked)

    def _answer(self, prompt: str, asked: Asked, fields: dict[str, str], number: int) -> tuple[int | None, str]:
        if prompt in ("audio_caption", "asr"):
            return self._heard(prompt, asked)
        if prompt == "visual_caption":
            return self._seen_in(asked)
        seed = self._seed_of(" ".join(fields.values()))
        if prompt in ("fuse_avocado", "fuse_vs2"):
            return seed, self._fused(prompt, fields, seed, number)
        if prompt == "local_caption":
            return seed, f"In this part: {' '.join(_listed(fields['events']))}"
        if prompt in ("events", "checklist") and seed in self.faults.unread_always:
            return seed, "I would rather not."
        if prompt in ("events", "checklist") and seed in self.faults.unread_once and number == 1:
            return seed, 'The list is {"events": ['
        record = _intervals(asked, fields) if prompt == "local_intervals" else self._record(prompt, fields, seed)
        return seed, json.dumps({"reasoning": "known"} | record)

    def _heard(self, prompt: str, asked: Asked) -> tuple[int | None, str]:
        data = base64.b64decode(_part(asked, "input_audio")["data"])
        found = self._find_sound(_samples(data))
        if found is None:
            name = hashlib.sha256(data).hexdigest()[:6]
            spoken = f"Some words about number {name} are said here."
            return None, spoken if prompt == "asr" else f"Music plays, and noise {name} is heard."
        play, start, end = found
        seed, part = play.script.seed, play.part(start, end)
        if prompt == "audio_caption":
            return seed, "A man is speaking." if seed in self.faults.generic else sound_caption(part)
        if seed in self.faults.no_speech:
            return seed, "[no speech]"
        if seed in self.faults.nonsense:
            return seed, "thank you " * 12
        if seed in self.faults.misheard:
            return seed, "Nobody knows any longer which way they went."
        return seed, transcript(part) or "[no speech]"

    def _seen_in(self, asked: Asked) -> tuple[int | None, str]:
        images = [_image(part["image_url"]["url"]) for part in _parts(asked) if part["type"] == "image_url"]
        found = self._find_pictures(np.stack([_thumb(image) for image in images]))
        if found is None:
            name = hashlib.sha256(images[0].tobytes()).hexdigest()[:6]
            return None, f"A film with number {name} is shown. Film {name} has {len(images)} pictures."
        play, start = found
        text = reference_caption(play.part(start, start + len(images)), hear=False).replace(NO_SOUND, "").strip()
        return play.script.seed, text or "A plain backdrop is seen."

    def _fused(self, prompt: str, fields: dict[str, str], seed: int | None, number: int) -> str:
        sources = [_plain(fields[name]) for name in sorted(fields, reverse=True) if "caption" in name]
        told = [sentence for source in sources for sentence in sentences(source)]
        if seed in self.faults.loses_always or (seed in self.faults.loses_once and number == 1):
            told = told[1:]
        if seed in self.faults.invents_sound:
            told.append("A gong is struck at the end.")
        times = 3 if seed in self.faults.repeats else 1
        return " ".join(told * times)

    def _record(self, prompt: str, fields: dict[str, str], seed: int | None) -> dict[str, Any]:
        caption = fields.get("caption", "")
        told = list(dict.fromkeys(sentences(caption)))
        if prompt == "events":
            return {"events": told}
        if prompt == "checklist":
            dimensions = ("auditory_elements", "action_and_interaction", "static_entities")
            points = [{"dimension": dimensions[place % 3], "text": text} for place, text in enumerate(told)]
            return {"keypoints": points}
        if prompt == "dialogue":
            said = [one for one in quoted_passages(caption) if len(one.split()) > 1]
            return {"utterances": [{"speaker": "somebody", "text": text} for text in said]}
        if prompt == "qa":
            return {"pairs": [{"question": "What happens first?", "answer": told[0], "evidence": told[0]}]}
        if prompt == "contradiction":
            one = {"visual": "it is dark", "audio": "it is day", "why": "not both"}
            return {"contradictions": [one] if seed in self.faults.contradicts else []}
        if prompt == "sound_names":
            names = ["gong"] if "gong" in caption else []
            names += [mention.sound for mention in parse_caption(fields["audio_caption"]) if mention.sound]
            found = [{"name": name, "heard": name != "gong", "evidence": name * (name != "gong")} for name in names]
            return {"sounds": found}
        score = 3 if seed in self.faults.incomplete else 5
        return {"missing": ["1: something"] if score < 5 else [], "score": score}

    def _seed_of(self, text: str) -> int | None:
        """The play that a text tells of: the one with most of its events."""
        keys = {mention.key for mention in parse_caption(text)}
        told = [(len(keys & {event.key for event in play.script.events}), play.script.seed) for play in self.plays]
        best = max(told, default=(0, -1))
        return best[1] if best[0] else None

    def _find_sound(self, samples: np.ndarray) -> tuple[Play, float, float] | None:
        best: tuple[float, Play, int] | None = None
        for play in self.plays:
            size = len(play.waveform) + len(samples)
            spectrum = np.fft.rfft(play.waveform, size) * np.conj(np.fft.rfft(samples, size))
            scores = np.fft.irfft(spectrum, size)[: len(play.waveform)]
            place = int(scores.argmax())
            other = play.waveform[place : place + len(samples)]
            norm = float(np.linalg.norm(other) * np.linalg.norm(samples)) or 1.0
            if best is None or scores[place] / norm > best[0]:
                best = (float(scores[place]) / norm, play, place)
        if best is None or best[0] < 0.6:
            return None
        start = best[2] / RATE
        return best[1], start, min(start + len(samples) / RATE, best[1].script.duration_seconds)

    def _find_pictures(self, thumbs: np.ndarray) -> tuple[Play, float] | None:
        """Pictures at 1 per second."""
        best: tuple[float, Play, float] | None = None
        for play in self.plays:
            for first in range(len(play.thumbs)):
                others = play.thumbs[first :: int(_FPS)][: len(thumbs)]
                if len(others) < len(thumbs):
                    break
                error = float(np.abs(others - thumbs).mean())
                if best is None or error < best[0]:
                    best = (error, play, first / _FPS)
        return None if best is None or best[0] > 12 else best[1:]


def _prompt_of(asked: Asked) -> str:
    system = next(message["content"] for message in asked.body["messages"] if message["role"] == "system")
    for name in PROMPTS:
        if dict(load_teacher_prompt(name).sections)["system"] == system:
            return name
    assert dict(load_prompt("completeness").sections)["system"] == system
    return "completeness"


def _parts(asked: Asked) -> list[dict[str, Any]]:
    content = asked.body["messages"][-1]["content"]
    return content if isinstance(content, list) else []


def _part(asked: Asked, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(part[kind] for part in _parts(asked) if part["type"] == kind)
    return found


def _intervals(asked: Asked, fields: dict[str, str]) -> dict[str, Any]:
    """Everything lasts from the beginning to the end."""
    seconds = len(_samples(base64.b64decode(_part(asked, "input_audio")["data"]))) / RATE
    count = len(fields["events"].splitlines())
    times = {"start_seconds": 0.0, "end_seconds": round(seconds, 1)}
    return {"events": [{"number": number, **times} for number in range(1, count + 1)]}


def _samples(data: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels()) == (RATE, 1)
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


def _image(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def _thumb(picture: np.ndarray) -> np.ndarray:
    small = Image.fromarray(picture).resize((_THUMB, _THUMB), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def _plain(field: str) -> str:
    """A field without the times of its segments."""
    return re.sub(r"^\[[\d.]+-[\d.]+ s\] ?", "", field, flags=re.MULTILINE)


def _listed(field: str) -> list[str]:
    return [line.partition(". ")[2] for line in field.splitlines()]
