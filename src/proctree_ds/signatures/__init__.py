"""Signatures that come with the library, one technique a file."""
