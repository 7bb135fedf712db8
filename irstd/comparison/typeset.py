"""Tables of numbers as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from irstd.comparison.rows import NUMBERS, Row, Table

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def markdown(tables: Iterable[Table]) -> str:
    """A heading, a table with the best values in bold, and what must be said, for each."""
    parts = []
    for table in tables:
        cells = [[_plain(cell) for cell in line] for line in _cells(table, lambda text: f"**{text}**")]
        heads = _heads(table)
        widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in [heads, *cells]
        ]
        lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
        parts.append("\n\n".join([f"### {table.title}", "\n".join(lines), *table.notes]))
    return "\n\n".join(parts) + "\n"


def latex(tables: Iterable[Table]) -> str:
    """`table` environments with the rules of the package booktabs; the best values in bold."""
    parts = []
    for table in tables:
        lines = [
            " & ".join(line) + r" \\" for line in _cells(table, lambda text: f"\\textbf{{{text}}}", escape=_escaped)
        ]
        heads = " & ".join(
            head.replace("1e-6", r"$\times 10^{-6}$") if head.startswith("Fa") else _escaped(head)
            for head in _heads(table)
        )
        caption = " ".join(_escaped(text) for text in [f"{table.title}.", *table.notes])
        shape = "l" + "r" * len(table.columns) + "rl"
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    f"\\caption{{{caption}}}",
                    f"\\begin{{tabular}}{{{shape}}}",
                    r"\toprule",
                    heads + r" \\",
                    r"\midrule",
                    *lines,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(parts) + "\n"


def as_csv(tables: Iterable[Table]) -> str:
    """One line a row, of all tables, with all that its numbers depend on; Fa as a fraction."""
    about = ("set", "split", "protocol", "grid", "selection", "threshold", "images", "targets", "shards", "source")
    lines = []
    for row in (row for table in tables for row in table.rows):
        line: dict[str, object] = {"method": row.method} | {name: getattr(row, name) for name in about}
        for name, value in row.values.items():
            line[name] = value
            line[f"{name}_low"], line[f"{name}_high"] = row.intervals.get(name, (None, None))
        lines.append(line)
    numbers = [name + end for name in NUMBERS for end in ("", "_low", "_high")]
    used = [name for name in numbers if any(line.get(name) is not None for line in lines)]
    out = io.StringIO()
    writer = csv.DictWriter(out, ["method", *used, *about], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


FORMATS = {"markdown": (markdown, "compare.md"), "latex": (latex, "compare.tex"), "csv": (as_csv, "compare.csv")}
"""By name: what writes tables as text, and the file's name."""


def _heads(table: Table) -> list[str]:
    return ["method", *(NUMBERS[name] for name in table.columns), "threshold", "source"]


def _cells(table: Table, bold, escape=str) -> list[list[str]]:
    found = []
    for index, row in enumerate(table.rows):
        line = [escape(row.method)]
        for name in table.columns:
            text = escape(_number(row, name))
            line.append(bold(text) if index in table.best.get(name, ()) else text)
        shards = f"shards {row.shards}" if row.shards else ""
        line += ["-" if row.threshold is None else f"{row.threshold + 0.0:.4g}", escape(row.source or shards)]
        found.append(line)
    return found


def _number(row: Row, name: str) -> str:
    value = row.values.get(name)
    if value is None:
        return "-"
    interval = row.intervals.get(name)
    return _digits(value, name) + (f" [{_digits(interval[0], name)}, {_digits(interval[1], name)}]" if interval else "")


def _digits(value: float, name: str) -> str:
    return f"{value * 1e6:.2f}" if name == "fa" else f"{value:.4f}"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _escaped(text: str) -> str:
    return re.sub(r"[&%$#_{}~^\\<>]", lambda match: _SPECIAL[match.group()], text)
