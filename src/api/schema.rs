//! How the words of `types` look in the API's description; `types` itself stays without dependencies.

use std::borrow::Cow;

use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::limits;
use crate::types::{Bandwidth, PeerName, Reject, ServiceName};

/// As [`crate::types`] checks names.
const NAME_PATTERN: &str = r"^[A-Za-z0-9][A-Za-z0-9._-]*$";

fn name(what: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(what))
        .pattern(Some(NAME_PATTERN))
        .min_length(Some(1))
        .max_length(Some(limits::NAME_BYTES_MAX))
        .into()
}

impl PartialSchema for PeerName {
    fn schema() -> RefOr<Schema> {
        name("The name of a peer, unique in the overlay.")
    }
}

impl ToSchema for PeerName {
    fn name() -> Cow<'static, str> {
        "PeerName".into()
    }
}

impl PartialSchema for ServiceName {
    fn schema() -> RefOr<Schema> {
        name("The name of a service, or one that a person gave a channel.")
    }
}

impl ToSchema for ServiceName {
    fn name() -> Cow<'static, str> {
        "ServiceName".into()
    }
}

impl PartialSchema for Bandwidth {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .description(Some("A rate in bit/s."))
            .minimum(Some(0))
            .into()
    }
}

impl ToSchema for Bandwidth {
    fn name() -> Cow<'static, str> {
        "Bandwidth".into()
    }
}

impl PartialSchema for Reject {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Why a request was rejected."))
            .enum_values(Some(Self::ALL.map(Self::as_str)))
            .into()
    }
}

impl ToSchema for Reject {
    fn name() -> Cow<'static, str> {
        "Reject".into()
    }
}
