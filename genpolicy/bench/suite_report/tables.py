"""A table that can be written as HTML, Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genpolicy.bench.statistics import Estimate

NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Column:
    """One column."""

    title: str
    numeric: bool = False
    help: str = ""
    """A sentence for the heading's tooltip."""
    name: str = ""
    """In CSV; by default the title."""
    ends: bool = False
    """Whether cells are estimates with an interval, whose ends are columns of their own in CSV."""


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    value: Any = None
    """What it is sorted by, and what CSV gets; by default the text."""
    ends: tuple[Any, Any] = ("", "")
    """The ends of its interval, for CSV."""
    tone: str = ""
    """``good``, ``bad`` or ``muted``; only statements that the intervals support have the first two."""

    @property
    def key(self) -> Any:
        """What it is sorted by: empty if there is nothing."""
        value = self.text if self.value is None else self.value
        return "" if value == NOTHING else value


@dataclass(frozen=True)
class Row:
    """One row, with what it can be filtered by."""

    cells: tuple[Cell, ...]
    levels: Mapping[str, str] = field(default_factory=dict)
    """The level of each factor; the row is shown under every filter of a factor that it does not name."""


@dataclass(frozen=True)
class Table:
    """A table with its heading and what must be known to read it."""

    id: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def number(value: float | None, digits: int = 1, *, tone: str = "") -> Cell:
    """A cell with a number, which sorts and is written to CSV at full precision."""
    if value is None:
        return Cell(NOTHING, tone="muted")
    text = f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no minus before a zero
    return Cell(text.replace("-", MINUS), value, tone=tone)


def interval(estimate: Estimate | None, digits: int = 1, *, sign: bool = False) -> Cell:
    """A cell with a number and its interval, which sorts by the number; `sign` writes a plus before gains."""
    if estimate is None:
        return Cell(NOTHING, tone="muted")
    value, low, high = estimate.value, estimate.low, estimate.high
    text = ("+" if sign and value > 0 else "") + number(value, digits).text
    if low is None or high is None:
        return Cell(text, value)
    return Cell(f"{text} ({number(low, digits).text} to {number(high, digits).text})", value, (low, high))


# Markdown, LaTeX, CSV


def to_markdown(tables: Iterable[Table]) -> str:
    """All tables, each with its heading and note."""
    return "\n".join(_markdown(table) for table in tables if table.rows)


def _markdown(table: Table) -> str:
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [[column.title for column in table.columns], rule]
    lines += [[cell.text.replace("|", "\\|") for cell in row.cells] for row in table.rows]
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"## {table.title}\n\n{table.note}\n\n{body}"


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "·": r"\,\textperiodcentered\,",
    MINUS: r"$-$",
    NOTHING: "--",
    "±": r"$\pm$",
}


def escape_latex(text: str) -> str:
    """Write a text so that LaTeX prints it as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def to_latex(tables: Iterable[Table]) -> str:
    """All tables for booktabs; they go on over pages with longtable."""
    head = "% \\usepackage{booktabs,longtable} \\usepackage[T1]{fontenc}\n"
    return head + "\n".join(_latex(table) for table in tables if table.rows)


def _latex(table: Table) -> str:
    shape = "".join("r" if column.numeric else "l" for column in table.columns)
    titles = " & ".join(escape_latex(column.title) for column in table.columns)
    body = "".join(" & ".join(escape_latex(cell.text) for cell in row.cells) + " \\\\\n" for row in table.rows)
    caption = escape_latex(f"{table.title}. {table.note}")
    small = "\\footnotesize\\setlength{\\tabcolsep}{3pt}"
    return (
        f"{{{small}\n\\begin{{longtable}}{{{shape}}}\n\\caption{{{caption}}}\\label{{tab:{table.id}}}\\\\\n"
        f"\\toprule\n{titles} \\\\\n\\midrule\n\\endhead\n{body}\\bottomrule\n\\end{{longtable}}}}\n"
    )


def to_csv(table: Table) -> str:
    """One table, with numbers at full precision."""
    titles: list[str] = []
    for column in table.columns:
        name = column.name or column.title
        titles += [name, f"{name} low", f"{name} high"] if column.ends else [name]
    rows = []
    for row in table.rows:
        line: list[Any] = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            line += [cell.key, *cell.ends] if column.ends else [cell.key]
        rows.append(line)
    return write_csv(titles, rows)


def write_csv(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(rows)
    return buffer.getvalue()
