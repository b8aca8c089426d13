"""A page that remembers what went wrong on it."""

from __future__ import annotations

from typing import Any


class Watched:
    """A page, with what went wrong on it and what it asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.errors.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))

    def go(self, address: str, hash_: str = "#/") -> None:
        """Opens a screen and waits until it shows what it has."""
        self.page.goto(f"{address}{hash_}")
        self.settle()

    def settle(self) -> None:
        """Waits until nothing on the page is awaited any more."""
        self.page.wait_for_function(
            "() => document.querySelector('h1')"
            " && !document.querySelector('.waiting, progress.line, [aria-busy=true]')"
        )
        self.page.wait_for_timeout(80)

    def text(self) -> str:
        """What the screen says once it says the same twice: some parts are asked for late."""
        before = None
        while (now := str(self.page.inner_text("main"))) != before:
            before = now
            self.page.wait_for_timeout(200)
            self.settle()
        return now
