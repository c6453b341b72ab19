"""The self-contained page: everything inside, everything escaped, nothing loaded."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from avocet.errors import ConfigError
from avocet.review import Findings, Page, PageClip, render_page, summary_figures, write_page

HOSTILE = '</p><script>alert(1)</script><img src=x onerror="alert(2)"> "quoted" & \x1b[31m'


class Reader(HTMLParser):
    """Collects the tags with their attributes, the open ones, and the text."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"not really a video")
    return path


def make_page(video: Path, text: str = "A bell rings.", findings: Findings | None = None) -> Page:
    clip = PageClip(
        title=text, video_path=video, truth=text, caption=text, findings=findings, facts=(text,), warnings=(text,)
    )
    return Page(title=text, lead=text, clips=(clip,), figures=((text, text),), footer=text)


def test_the_video_is_inside(video: Path, tmp_path: Path) -> None:
    path = write_page(tmp_path / "new" / "page.html", make_page(video))
    tags = read(path.read_text(encoding="utf-8")).tags
    sources = [attributes["src"] for tag, attributes in tags if tag == "video"]
    assert sources == ["data:video/mp4;base64," + base64.b64encode(b"not really a video").decode()]
    assert all("controls" in attributes for tag, attributes in tags if tag == "video")


def test_hostile_text_stays_text(video: Path) -> None:
    findings = Findings(correct=(HOSTILE,), missed=(HOSTILE,), incorrect=(HOSTILE,), hallucinated=(HOSTILE,))
    page = render_page(make_page(video, HOSTILE, findings))
    reader = read(page)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert "img" not in {tag for tag, _ in reader.tags}
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert "\x1b" not in page
    # page: title twice, lead, figure twice, footer = 6; clip: title, truth, caption, fact, warning = 5; findings = 4
    assert reader.text.count("<script>alert(1)</script>") == 15


def test_nothing_is_loaded_and_the_policy_allows_only_the_own_style(video: Path) -> None:
    page = render_page(make_page(video))
    tags = read(page).tags
    for _, attributes in tags:
        for name in ("src", "href"):
            if attributes.get(name):
                assert attributes[name].startswith("data:")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(
        attributes["content"] for _, attributes in tags if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_findings_are_named_in_words(video: Path) -> None:
    findings = Findings(correct=("a bell",), missed=("a star",), incorrect=("a heart",), hallucinated=("a drum",))
    text = read(render_page(make_page(video, findings=findings))).text
    for words in ("correct a bell", "missed a star", "incorrect a heart", "invented a drum"):
        assert words in text


def test_an_unjudged_caption_says_so(video: Path) -> None:
    assert "This caption was not judged." in read(render_page(make_page(video))).text


def test_figures_count_the_findings() -> None:
    first = Findings(correct=("a", "b"), missed=("c",))
    second = Findings(correct=("d",), incorrect=("e",), hallucinated=("f", "g"))
    # events: 2 + 1 missed in the first clip, 1 + 1 incorrect in the second; invented ones are no events
    assert summary_figures(2, [first, second]) == (
        ("2", "clips"),
        ("3 of 5", "events right"),
        ("1", "missed"),
        ("1", "incorrect"),
        ("2", "invented"),
    )


def test_a_video_too_large_to_embed(tmp_path: Path) -> None:
    path = tmp_path / "huge.mp4"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ConfigError, match=r"huge\.mp4 has 65 MiB; at most 64 MiB"):
        render_page(make_page(path))
