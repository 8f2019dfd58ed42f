"""Kinds of pictures, and what draws each."""
