"""The search: one loop, and what it is made of."""

from archgrad.search.search_api import SearchResult, search

__all__ = ["SearchResult", "search"]
