"""What people ask of a finished run: tables, LaTeX, figures, a map, a part of a model card.

Every module makes bytes and text from a loaded run; `store.exports` writes them.
"""
