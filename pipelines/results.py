"""What a run has produced, as an artifact on its page in Prefect."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from prefect.artifacts import create_markdown_artifact


def publish(flow: str, result: dict[str, Any] | None) -> None:
    """Make the artifact `<flow>-result`: a table of `result`, addresses as links. Nothing where there is no result."""
    if not result:
        return
    rows = [f"| {name} | {_cell(value)} |" for name, value in result.items()]
    table = "\n".join(["| | |", "| --- | --- |", *rows])
    create_markdown_artifact(key=f"{flow}-result", markdown=table, description=f"Result of {flow}")


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text.replace("|", "\\|").replace("\n", " ")
    if text.startswith("/") and text.endswith(".html"):
        return f"[{text}](file://{quote(text)})"
    return f"[{text}]({text})" if text.startswith(("http://", "https://")) else text
