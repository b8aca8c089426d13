"""Activations of components on texts: processed, grouped, and held against findings."""
