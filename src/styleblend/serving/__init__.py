"""The model behind HTTP: a small page to try it, and an interface for programs."""
