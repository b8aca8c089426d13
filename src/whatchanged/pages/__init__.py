"""The report as a document of plain blocks, and its two writers: web page and Markdown."""
