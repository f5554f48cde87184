"""Which colour stands for which class and which face, in timelines and in annotated videos."""

from __future__ import annotations

from collections.abc import Sequence

from maedfer._figure_style import PALETTE

# Where a class has one of these words in its name it has the colour that readers expect, from the "bright" scheme of
# Paul Tol and three others of his that stay apart from it.
_BLUE, _RED, _GREEN, _YELLOW, _CYAN, _PURPLE, _GREY = PALETTE
_ORANGE, _INDIGO, _OLIVE, _WINE, _TEAL = "#ee8833", "#332288", "#999933", "#882255", "#009988"
_MEANT = (
    (_GREY, ("neutral", "calm", "none", "other")),
    (_YELLOW, ("happ", "joy", "amus")),
    (_CYAN, ("surpris",)),
    (_BLUE, ("sad",)),
    (_RED, ("ang",)),
    (_GREEN, ("disg",)),
    (_PURPLE, ("fear", "afraid", "scare")),
    (_ORANGE, ("contempt",)),
    (_INDIGO, ("anxi",)),
    (_OLIVE, ("helpless", "bored")),
    (_WINE, ("disapp",)),
)
_ALL = (_BLUE, _YELLOW, _RED, _GREEN, _CYAN, _PURPLE, _ORANGE, _INDIGO, _OLIVE, _WINE, _TEAL, _GREY)
FACES = (_BLUE, _ORANGE, _GREEN, _PURPLE, _TEAL, _RED, _OLIVE, _INDIGO)


def class_colours(classes: Sequence[str]) -> list[str]:
    """A colour for each class, as "#rrggbb"; no two have the same one as long as there are twelve or fewer."""
    found: list[str | None] = []
    for name in classes:
        word = name.lower()
        meant = next((colour for colour, stems in _MEANT if any(word.startswith(stem) for stem in stems)), None)
        found.append(meant if meant not in found else None)
    free = [colour for colour in _ALL if colour not in found] or list(_ALL)
    rest = iter(free * (len(classes) // len(free) + 1))
    return [colour or next(rest) for colour in found]


def face_colour(face: int) -> str:
    """The colour of a face by its number."""
    return FACES[(face - 1) % len(FACES)]


def is_dark(colour: str) -> bool:
    """Whether white text reads better on a colour than black."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140
