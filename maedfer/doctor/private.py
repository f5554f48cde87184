"""Sentences without what is nobody's business: names of people and of their folders."""

from __future__ import annotations

import getpass
import os
import re


def discreet(text: str) -> str:
    """A sentence on one line with the home folder as ~, without the user's name in other paths and passwords."""
    text = " ".join(text.split())
    homes = {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))}
    for home in sorted(homes, key=len, reverse=True):
        if len(home) > 1:
            text = re.sub(rf"{re.escape(home)}(?=[/\s'\":;,)]|$)", "~", text)
    # As in /scratch/anna.
    user = _user()
    if user:
        text = re.sub(rf"(?<=/){re.escape(user)}(?=[/\s'\":;,)]|$)", "USER", text)
    return re.sub(r"://[^/\s@]*@", "://", text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A number without a name, as in many containers.
        return ""
