"""Text for LaTeX, in plain ASCII, for any engine.

What a model, a user or a config wrote is escaped for TeX. Letters that pdfTeX cannot set without
further packages stand in `\\unicodechar{4E2D}`, which prints the code point; with XeLaTeX or
LuaLaTeX, `\\newcommand{\\unicodechar}[1]{\\symbol{"#1}}` in the preamble prints the letter itself.
"""

from __future__ import annotations

import unicodedata

from whatchanged.escape import show_hidden

# What a document needs before its first escaped text.
NEEDED = (
    "% Needs \\usepackage{booktabs}.\n"
    "\\providecommand{\\unicodechar}[1]{\\texttt{U+#1}}\n"
)  # fmt: skip
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
