"""Annotation: every distinct side is sent once to an OpenAI-compatible annotator, and no answer is lost."""
