"""An application whose schema grows: what its `env.py` and sqlalchemy-helpers import."""

from __future__ import annotations

from typing import Any

from flask import Flask
from sqlalchemy import MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_helpers.flask_ext import DatabaseExtension
from sqlalchemy_helpers.manager import NAMING_CONVENTION

from partywall import tenant_aware


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


@tenant_aware
class Account(Base):
    __tablename__ = "helpers_account"
    __table_args__ = (UniqueConstraint("tenant_id", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(40))
    number: Mapped[str] = mapped_column(String(40))
    balance: Mapped[int | None]


class Currency(Base):
    __tablename__ = "helpers_currency"
    code: Mapped[str] = mapped_column(String(3), primary_key=True)


def make_app(uri: str, location: str, base_model: Any = Base) -> Flask:
    app = Flask("accounts")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=uri, DB_ALEMBIC_LOCATION=location, DB_MODELS_LOCATION="accounts"
    )
    DatabaseExtension(app, base_model=base_model)
    return app
