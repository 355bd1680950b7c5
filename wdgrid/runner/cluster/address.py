"""Recognises the address of a Ray cluster."""

import re

AUTO = "auto"  # $RAY_ADDRESS, else the cluster of which this machine is a node
_ADDRESS = re.compile(r"[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


def is_address(word: str) -> bool:
    """Whether a word is the address of a cluster."""
    return word == AUTO or bool(_ADDRESS.fullmatch(word))


def looks_like_address(word: str) -> bool:
    """Whether a word after --ray is meant as its address."""
    return is_address(word) or "://" in word
