"""The search: one loop, and what it is made of."""

from archgrad.search.entry import SearchResult, search

__all__ = ["SearchResult", "search"]
