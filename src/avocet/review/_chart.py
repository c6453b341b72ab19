"""The drawing of a clip page: all lanes on one time axis, with zoom levels that need no script."""

from __future__ import annotations

import numpy as np

from avocet.models.interface import Prompt
from avocet.records import SAMPLE_RATE, Clip
from avocet.review import _lanes
from avocet.review._axis import ZOOMS, TimeScale
from avocet.review._html import text
from avocet.review._images import plain_spectrogram
from avocet.review._lanes import Lane
from avocet.review.clip_facts import levels, number
from avocet.review.token_runs import largest_position_distance

_LANE_GAP = 14
_WHISPER_FRAME_SECONDS = 0.01
_PLAIN_FRAME_SECONDS = 0.01


def chart(clip: Clip, prompt: Prompt | None) -> str:
    """A figure: lane names on the left, the drawing on the right, zoom buttons above where they help."""
    scale = time_scale(clip, prompt)
    lanes = _chosen_lanes(scale, clip, prompt)
    body, labels, top = [], [], 2
    for lane in lanes:
        body.append(f'<svg y="{top}" width="100%" height="{lane.height}">{lane.body}</svg>')
        for y, name, detail in lane.labels:
            if name:
                labels.append(f'<text x="0" y="{top + y}" class="name">{text(name)}</text>')
            if detail:
                labels.append(f'<text x="0" y="{top + y + (14 if name else 0)}" class="note">{text(detail)}</text>')
        top += lane.height + _LANE_GAP
    grid = _lanes.grid_lines(scale, top)
    return f"""<figure class="chart">
{_zoom_buttons(scale)}
<div class="sides">
<svg class="labels" width="126" height="{top}" aria-hidden="true">{"".join(labels)}</svg>
<div class="viewport" tabindex="0" role="region" aria-label="Time axis of {number(scale.seconds)} s, scrolls sideways">
<svg class="canvas" height="{top}" role="group" aria-label="Picture, sound and tokens over time">
{"".join(body)}
{grid}
</svg>
</div>
</div>
{_legend(prompt)}
</figure>"""


def time_scale(clip: Clip, prompt: Prompt | None) -> TimeScale:
    """As long as the clip, or as its tokens where the last of them reaches beyond."""
    ends = 0.0 if prompt is None else float(prompt.layout.end_seconds.max())
    return TimeScale(seconds=max(clip.duration_seconds, ends))


def mel_frame_seconds(num_mel_frames: int, num_samples: int) -> float:
    """Seconds per mel frame: Whisper's 10 ms, doubled until the mel covers the sound (but for a started frame).

    A prompt does not say it; the mel is at least as long as the sound, and longer where it is padded.
    """
    step = _WHISPER_FRAME_SECONDS
    while num_mel_frames > 0 and (num_mel_frames + 1) * step < num_samples / SAMPLE_RATE:
        step *= 2
    return step


def frames_of(clip: Clip, prompt: Prompt | None) -> np.ndarray:
    """uint8 (T, 3, H, W): as the model gets them, where it gets all that were sampled."""
    if prompt is None or len(prompt.frames) != clip.num_frames:
        return clip.frames
    frames: np.ndarray = prompt.frames.cpu().numpy()
    return frames


def _chosen_lanes(scale: TimeScale, clip: Clip, prompt: Prompt | None) -> list[Lane]:
    lanes = [_lanes.axis_lane(scale, clip.start_seconds), _picture(scale, clip, prompt), *_sound(scale, clip, prompt)]
    if prompt is None:
        return lanes
    lanes.append(_lanes.token_lane(scale, prompt.layout))
    if prompt.layout.positions is not None:
        distance = largest_position_distance(prompt.layout)
        detail = "" if distance is None else f"up to {number(distance.value)} apart"
        lanes.append(_lanes.position_lane(scale, prompt.layout, detail))
    return lanes


def _picture(scale: TimeScale, clip: Clip, prompt: Prompt | None) -> Lane:
    if not clip.num_frames:
        return _lanes.empty_lane("Picture", "no picture")
    seconds = (clip.frame_times_seconds - clip.start_seconds).clip(min=0)
    shown = []
    for place, (time, sample) in enumerate(zip(clip.frame_times_seconds, clip.sample_times_seconds, strict=True)):
        stands = sample + clip.start_seconds
        what = f"frame {place + 1}: on screen from {number(time)} s"
        shown.append(what if abs(stands - time) < 0.0005 else f"{what}, stands for {number(stands)} s")
    return _lanes.picture_lane(scale, frames_of(clip, prompt), seconds.tolist(), shown)


def _sound(scale: TimeScale, clip: Clip, prompt: Prompt | None) -> list[Lane]:
    if clip.waveform is None or not len(clip.waveform):
        return [_lanes.empty_lane("Sound", f"no sound: {clip.audio_status}")]
    wave = _lanes.wave_lane(scale, clip.waveform, levels(clip)[0])
    if prompt is not None:
        mel = None if prompt.mel is None else prompt.mel.float().cpu().numpy()
        step = 0.0 if mel is None else mel_frame_seconds(mel.shape[1], len(clip.waveform))
        missing = "the model gets no sound"
    else:
        mel, step, missing = plain_spectrogram(clip.waveform), _PLAIN_FRAME_SECONDS, "too short for a spectrogram"
    if mel is None or not mel.size:
        return [wave, _lanes.empty_lane("Log-mel", missing)]
    return [wave, _lanes.spectrogram_lane(scale, mel, step, len(clip.waveform) / SAMPLE_RATE)]


def _zoom_buttons(scale: TimeScale) -> str:
    if scale.num_levels == 1:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="zoom" id="zoom-{level}"{" checked" if level == 0 else ""}>'
        f"<span>{'Fit' if level == 0 else f'×{ZOOMS[level]}'}</span></label>"
        for level in range(scale.num_levels)
    )
    return f'<fieldset class="zoom"><legend>Zoom</legend>{buttons}</fieldset>'


def _legend(prompt: Prompt | None) -> str:
    if prompt is None:
        return ""
    keys = [("visual", "picture"), ("audio", "sound")]
    if prompt.layout.num_visual_tokens and prompt.layout.num_audio_tokens:
        keys.append(("tie", "tokens read together: upright bands line up, slanted ones do not"))
        if prompt.layout.positions is not None:
            keys.append(("gap", "positions of picture and sound apart"))
    items = "".join(f'<li><span class="key {kind}"></span>{what}</li>' for kind, what in keys)
    return f'<figcaption><ul class="keys">{items}</ul></figcaption>'
