"""Which path answers which method of the contract: read by the server and by proto/openapi.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message

from attributary.v1 import attribution_pb2 as pb


@dataclass(frozen=True, slots=True)
class Route:
    """One path. A POST takes JSON, and a form where `form` is set; a GET takes its fields from path and query."""

    method: str
    path: str
    name: str  # of the method in the contract
    form: bool = False
    table: bool = False  # answers as Arrow or Parquet too
    picture: bool = False  # answers with a picture in place of JSON

    @property
    def request(self) -> type[Message]:
        """Its message."""
        return _message(f"{self.name}Request")

    @property
    def response(self) -> type[Message]:
        """What answers it."""
        return _message(f"{self.name}Response")


def _message(name: str) -> type[Message]:
    found: type[Message] = getattr(pb, name)
    return found


ROUTES: Final = (
    Route("POST", "/v1/attribute", "Attribute", form=True, table=True),
    Route("POST", "/v1/attribute:batch", "AttributeBatch", form=True, table=True),
    Route("POST", "/v1/embed", "Embed", form=True),
    Route("GET", "/v1/items/{id}", "GetItem"),
    Route("GET", "/v1/items/{id}/thumbnail", "GetThumbnail", picture=True),
    Route("GET", "/v1/items", "ListItems", table=True),
    Route("GET", "/v1/creators", "ListCreators"),
    Route("GET", "/v1/receipt-keys", "ListReceiptKeys"),
    Route("GET", "/v1/bundle", "DescribeBundle"),
)
