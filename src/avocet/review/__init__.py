"""Pages on which people look at captions: a self-contained HTML page with the videos inside."""

from avocet.review.page import Findings, Page, PageClip, render_page, summary_figures, write_page

__all__ = ["Findings", "Page", "PageClip", "render_page", "summary_figures", "write_page"]
