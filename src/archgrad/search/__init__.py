"""The search: one loop, and what it is made of."""

from archgrad.search.loop import SearchResult, search

__all__ = ["SearchResult", "search"]
