"""What a model that has a name is described by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union


@dataclass(frozen=True, slots=True)
class Published:
    """A count that others have printed, to be held against ours.

    total:    as printed, with its digits: "405.85 B". active: of one token, "" for a dense model that says none.
    includes: what is counted, and what is not.
    source:   where the count and the sizes stand.
    apart, active_apart: elements in our count that the printed one leaves out; `includes` names them.
    """

    total: str
    includes: str
    source: str
    active: str = ""
    apart: int = 0
    active_apart: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """An architecture of transformers.

    config:     what differs from transformers' defaults.
    parameters: of the class named, a tied one counted once.
    shallow:    for a model that is only looked at: changes of the config that leave a few layers of each kind.
    depths:     module path of what holds layers -> how many there are in full, of those that `shallow` leaves out.
    """

    model_type: str
    architecture: str
    config: Mapping[str, Any]
    parameters: int
    about: str
    shallow: Mapping[str, Any] = field(default_factory=dict)
    depths: Mapping[str, int] = field(default_factory=dict)
    published: Published | None = None


@dataclass(frozen=True, slots=True)
class Plain:
    """A module of ours in plain torch: `module` names its file. sizes: what its class takes. The rest as above."""

    architecture: str
    sizes: Mapping[str, Any]
    parameters: int
    about: str
    module: str = "transformer"
    shallow: Mapping[str, Any] = field(default_factory=dict)
    depths: Mapping[str, int] = field(default_factory=dict)
    published: Published | None = None


@dataclass(frozen=True, slots=True)
class Packaged:
    """Real weights inside an installed package: the module that holds them, and where."""

    distribution: str
    module: str
    path: str
    architecture: str
    parameters: int
    about: str = field(default="")


Named = Union[Entry, Plain]
