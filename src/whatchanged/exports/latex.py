"""Tables for papers: LaTeX with booktabs, in plain ASCII, for any engine.

What a model, a user or a config wrote is escaped for TeX. Letters that pdfTeX cannot set without
further packages stand in `\\unicodechar{4E2D}`, which prints the code point; with XeLaTeX or
LuaLaTeX, `\\newcommand{\\unicodechar}[1]{\\symbol{"#1}}` in the preamble prints the letter itself.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whatchanged.escape import show_hidden
from whatchanged.exports.facts import (
    computing_seconds,
    describe_cost,
    describe_coverage,
    write_claim,
)
from whatchanged.pages.headline import false_discovery_rate, name_models, with_status
from whatchanged.pages.numbers import count, duration, interval, look_up, p_value, percent, points

if TYPE_CHECKING:
    from whatchanged.report import RunTables

MAX_ROWS = 25
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    # As a number: the character itself is active in the German of babel.
    '"': r"\char34{}",
    "`": r"\textasciigrave{}",
    # In braces, or they would be read as arguments of the line break before them.
    "[": "{[}", "]": "{]}", "*": "{*}",
    "\n": " ", "\t": " ",
    "\u2013": r"\textendash{}", "\u2014": r"\textemdash{}", "\u2026": r"\ldots{}",
    "\u2018": r"\textquoteleft{}", "\u2019": r"\textquoteright{}",
    "\u201c": r"\textquotedblleft{}", "\u201d": r"\textquotedblright{}",
    "\u2212": "$-$", "\u00d7": r"$\times$", "\u00b1": r"$\pm$", "\u2264": r"$\le$",
    "\u2265": r"$\ge$", "\u2190": r"$\leftarrow$", "\u2192": r"$\rightarrow$",
    "\u27e8": r"$\langle$", "\u27e9": r"$\rangle$", "\u00a0": "~",
    "\u00df": r"\ss{}", "\u00e6": r"\ae{}", "\u00c6": r"\AE{}", "\u00f8": r"\o{}",
    "\u00d8": r"\O{}", "\u0153": r"\oe{}", "\u0152": r"\OE{}", "\u0142": r"\l{}",
    "\u0141": r"\L{}",
}  # fmt: skip
# Two of them become one sign, a dash or a quotation mark, unless they are kept apart.
_JOINING = "-',"
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
_HEAD = (
    "% Needs \\usepackage{booktabs}.\n"
    "\\providecommand{\\unicodechar}[1]{\\texttt{U+#1}}\n"
)  # fmt: skip
_PREVIEW = (
    "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    "\\input{findings}\n\\input{coverage}\n\\input{cost}\n\\end{document}\n"
)


def write_latex(run: RunTables) -> dict[str, bytes]:
    """The files of the export `latex`: three tables, and a document that shows them."""
    files = {
        "findings.tex": write_findings_table(run),
        "coverage.tex": write_coverage_table(run),
        "cost.tex": write_cost_table(run),
        "preview.tex": _PREVIEW,
    }
    return {name: text.encode("ascii") for name, text in files.items()}


def write_findings_table(run: RunTables) -> str:
    """The strongest findings, at most 25, confirmed ones first; the caption counts all."""
    shown = [*with_status(run.findings, "confirmed"), *_unconfirmed(run)][:MAX_ROWS]
    rows = [
        (
            str(i),
            write_claim(finding),
            percent(finding.get("share_base")),
            percent(finding.get("share_intervention")),
            points(finding.get("effect"), ""),
            interval(finding.get("ci_low"), finding.get("ci_high")),
            p_value(finding.get("p_adjusted")),
            _status(finding),
        )
        for i, finding in enumerate(shown, start=1)
    ]
    head = ("", "Claim", "Base", "Intervention", "Effect", "95% interval", "Adj. p", "Status")
    base, intervention = name_models(run.config)
    n_confirmed = len(with_status(run.findings, "confirmed"))
    null = look_up(run.summary, "null_control")
    control = (
        "No null control was run."
        if null is None
        else f"The null control (base against base) confirmed {count(null.get('n_confirmed'))} "
        f"of {count(null.get('n_hypotheses'))}."
    )
    left_out = len(run.findings) - len(shown)
    caption = (
        f"{intervention} compared with {base}: {n_confirmed:,} of {len(run.findings):,} tested "
        "claims confirmed on fresh texts at a false discovery rate of "
        f"{false_discovery_rate(run.config)} (Benjamini-Hochberg over all). Effects are "
        f"differences of shares in percentage points, intervention minus base. {control}"
        + (f" The {left_out:,} weakest are not listed." if left_out else "")
    )
    columns = r"rp{0.3\linewidth}rrrlrl"
    return _table("findings", caption, columns, head, rows, is_wide=True)


def write_coverage_table(run: RunTables) -> str:
    """Prompts, texts, tokens and clusters per side."""
    caption = (
        "What was compared. Claims were found on discovery prompts and tested on fresh texts of "
        "validation prompts. Of clusters, those with at least one text of the side are counted."
    )
    head = ("", "Base", "Intervention")
    return _table("coverage", caption, "lrr", head, describe_coverage(run))


def write_cost_table(run: RunTables) -> str:
    """Who was asked: calls, texts without a score, US dollars; computing time in the caption."""
    seconds = duration(computing_seconds(run.summary))
    caption = f"What judging took. All stages together computed for {seconds}."
    head = ("Asked", "Model", "Calls", "From cache", "Unscored", "Cost")
    return _table("cost", caption, "llrrrr", head, describe_cost(run))


def for_latex(text: str) -> str:
    """TeX in ASCII that prints the text on one line, whatever it holds."""
    shown = show_hidden(text)
    return "".join(map(_tex_char, shown, shown[1:] + " "))


def _tex_char(char: str, following: str) -> str:
    if char in _JOINING and char == following:
        return char + "{}"
    if char in _SPECIAL:
        return _SPECIAL[char]
    if " " <= char <= "~":
        return char
    spelled = unicodedata.normalize("NFD", char)
    letter, mark = spelled[0], spelled[1:]
    if mark in _ACCENTS and letter.isascii() and letter.isalpha():
        return f"\\{_ACCENTS[mark]}{{{letter}}}"
    return f"\\unicodechar{{{ord(char):04X}}}"


def _table(
    name: str,
    caption: str,
    columns: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    is_wide: bool = False,
) -> str:
    """A table float; `is_wide` spans both columns of a page that has two."""
    float_name = "table*" if is_wide else "table"
    lines = [_row(row) for row in rows] or [rf"\multicolumn{{{len(head)}}}{{c}}{{none}} \\"]
    return _HEAD + "\n".join(
        (
            rf"\begin{{{float_name}}}[t]",
            r"\centering\footnotesize",
            rf"\caption{{{for_latex(caption)}}}",
            rf"\label{{tab:whatchanged-{name}}}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            _row(head),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\end{{{float_name}}}",
            "",
        )
    )


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(for_latex, cells)) + r" \\"


def _status(finding: Mapping[str, Any]) -> str:
    status = str(finding.get("status") or "unknown")
    return f"{status}, incomplete" if finding.get("incomplete") else status


def _unconfirmed(run: RunTables) -> list[Any]:
    return [finding for finding in run.findings if finding.get("status") != "confirmed"]
