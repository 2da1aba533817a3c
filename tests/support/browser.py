"""A page in the system's Chromium, driven by playwright, with every error that the browser reports."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.programs import without

if TYPE_CHECKING:  # `make setup` does not bring it, `make pages-test` does
    from playwright.async_api import ConsoleMessage, Page

AXE = Path(__file__).parents[1] / "pages" / "node_modules" / "axe-core" / "axe.min.js"
DESKTOP, PHONE = (1280, 900), (360, 740)

VIOLATIONS = "window.violations = []; addEventListener('securitypolicyviolation', e => violations.push(e.blockedURI))"
WIDER = "document.documentElement.scrollWidth - innerWidth"


class Watched:
    """A page, and all that the browser complained about meanwhile."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", self._noted)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(dialog.message))

    def _noted(self, message: "ConsoleMessage") -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    async def require_quiet(self) -> None:
        """No error, no warning, no violation of the page's policy, nothing wider than the screen."""
        assert self.errors == []
        assert await self.page.evaluate("window.violations") == []
        assert await self.page.evaluate(WIDER) <= 0

    async def require_accessible(self) -> None:
        """Axe finds nothing to complain about."""
        if not AXE.exists():
            without("axe-core is not installed: npm ci --prefix tests/pages")
        await self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = await self.page.evaluate("axe.run()")
        told = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]]
        assert told == []


Open = Callable[..., Awaitable[Watched]]
