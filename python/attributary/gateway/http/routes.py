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
    request: type[Message]
    response: type[Message]
    form: bool = False
    table: bool = False  # answers as Arrow or Parquet too
    picture: bool = False  # answers with a picture in place of JSON


ROUTES: Final = (
    Route("POST", "/v1/attribute", "Attribute", pb.AttributeRequest, pb.AttributeResponse, True, True),
    Route(
        "POST",
        "/v1/attribute:batch",
        "AttributeBatch",
        pb.AttributeBatchRequest,
        pb.AttributeBatchResponse,
        True,
        True,
    ),
    Route("POST", "/v1/embed", "Embed", pb.EmbedRequest, pb.EmbedResponse, True),
    Route("GET", "/v1/items/{id}", "GetItem", pb.GetItemRequest, pb.GetItemResponse),
    Route(
        "GET",
        "/v1/items/{id}/thumbnail",
        "GetThumbnail",
        pb.GetThumbnailRequest,
        pb.GetThumbnailResponse,
        picture=True,
    ),
    Route("GET", "/v1/items", "ListItems", pb.ListItemsRequest, pb.ListItemsResponse, table=True),
    Route("GET", "/v1/creators", "ListCreators", pb.ListCreatorsRequest, pb.ListCreatorsResponse),
    Route(
        "GET", "/v1/receipt-keys", "ListReceiptKeys", pb.ListReceiptKeysRequest, pb.ListReceiptKeysResponse
    ),
    Route("GET", "/v1/bundle", "DescribeBundle", pb.DescribeBundleRequest, pb.DescribeBundleResponse),
)
