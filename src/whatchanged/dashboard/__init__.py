"""The dashboard: a run as packed parts, one page that draws them, and three ways to open it."""
