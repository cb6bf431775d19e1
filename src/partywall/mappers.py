"""What the application's mappers say, as far as it is known: nothing here configures them.

To configure them would be too early for a relationship to a class that is yet to come.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import Table
from sqlalchemy.orm import Mapper, RelationshipProperty
from sqlalchemy.orm.mapper import _all_registries
from sqlalchemy.sql.expression import FromClause


def known_mappers() -> Iterator[Mapper[Any]]:
    # Not `registry.mappers`: it fails while one of its classes is being mapped.
    for known in _all_registries():
        # By reference: a class is added before SQLAlchemy takes the lock.
        for reference in known._managers.keyrefs():
            manager = reference()
            mapper = None if manager is None else vars(manager).get("mapper")
            # A class disposed of has none; it is still listed where it was mapped a second time.
            if mapper is not None:
                yield mapper


def secondaries(mapper: Mapper[Any]) -> Iterator[Table]:
    for relationship in tuple(mapper._init_properties.values()):
        if isinstance(relationship, RelationshipProperty):
            secondary = _secondary(relationship, mapper)
            if isinstance(secondary, Table):
                yield secondary


def is_relationship(mapper: Mapper[Any], name: str) -> bool:
    return isinstance(mapper._init_properties.get(name), RelationshipProperty)


def _secondary(relationship: RelationshipProperty[Any], mapper: Mapper[Any]) -> Any:
    secondary: Any = relationship._init_args.secondary
    said = getattr(relationship, "secondary", None)
    if said is None:
        said = secondary.argument if secondary.resolved is None else secondary.resolved

    if isinstance(said, str):
        return mapper.registry.metadata.tables.get(said)

    if callable(said) and not isinstance(said, FromClause):
        # It may name what does not exist yet; then it is asked again.
        with suppress(Exception):
            return said()

    return said
