"""The only room that talks to a GPU or a network."""
