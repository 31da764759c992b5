//! Questions that neighbours pass on along a path, and their answers, which take it backwards.
//!
//! Panic contract: as in [`super::control`].

use super::ParseError;
use super::codec::{Reader, Writer};
use super::control::{VERSIONS, emit_path, parse_path};
use super::course::Course;
use super::hop::{self, HopFacts};
use crate::limits;
use crate::types::{Bandwidth, ChannelId, PeerName, ServiceName};

/// A question to one peer along a given path; the answer takes it backwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Chosen by the asker, returned in the answer.
    pub id: u64,
    /// All peers on the way, asker first, the answering peer last.
    pub path: Vec<PeerName>,
    /// Position of the receiver of this message in `path`.
    pub position: u8,
    pub body: RoutedBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutedBody {
    /// "Which services do you offer?"
    AskServices,
    Services(Vec<ServiceInfo>),
    /// "Which links are up at your end, and which are branches of your tree?" (A10)
    AskLinks {
        /// "And what did you do in the last computation?" A version that does not know this says nothing.
        course: bool,
    },
    /// In pieces; `last` marks the final one.
    Links {
        links: Vec<LinkInfo>,
        last: bool,
        course: Option<Course>,
    },
    /// A peer on the way, or the asked one, cannot answer; the text says why.
    Unanswered(String),
    /// "What do you know of this channel that crosses us both?" Since version 5, as its answer.
    AskHop(ChannelId),
    Hop(Box<HopFacts>),
}

impl RoutedBody {
    /// First control version that has it.
    pub fn version(&self) -> u16 {
        match self {
            Self::AskHop(_) | Self::Hop(_) => hop::VERSION,
            Self::AskServices
            | Self::Services(_)
            | Self::AskLinks { .. }
            | Self::Links { .. }
            | Self::Unanswered(_) => VERSIONS.0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInfo {
    pub name: ServiceName,
    /// The service speaks first (`listen`), so the opener receives.
    pub source: bool,
    pub busy: bool,
}

/// One live link as its own end sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub peer: PeerName,
    /// The usable capacity that its session froze, or the one agreed in Hello.
    pub capacity: Bandwidth,
    pub branch: bool,
}

mod kind {
    pub(super) const ASK_SERVICES: u16 = 48;
    pub(super) const SERVICES: u16 = 49;
    pub(super) const ASK_LINKS: u16 = 50;
    pub(super) const LINKS: u16 = 51;
    pub(super) const UNANSWERED: u16 = 52;
    pub(super) const ASK_HOP: u16 = 53;
    pub(super) const HOP: u16 = 54;
}

mod field {
    pub(super) const COURSE: u16 = 1;
}

impl Routed {
    pub(super) fn emit(&self, w: &mut Writer) {
        let head = |w: &mut Writer, kind| {
            w.u16(kind);
            w.u64(self.id);
            emit_path(w, &self.path, self.position);
        };
        match &self.body {
            RoutedBody::AskServices => head(w, kind::ASK_SERVICES),
            RoutedBody::Services(services) => {
                head(w, kind::SERVICES);
                w.list(services, |w, service| {
                    w.service(&service.name);
                    w.bool(service.source);
                    w.bool(service.busy);
                });
            }
            RoutedBody::AskLinks { course } => {
                head(w, kind::ASK_LINKS);
                if *course {
                    w.optional_field(field::COURSE, |_| {});
                }
            }
            RoutedBody::Links { links, last, course } => {
                head(w, kind::LINKS);
                w.bool(*last);
                w.list(links, |w, link| {
                    w.peer(&link.peer);
                    w.bandwidth(link.capacity);
                    w.bool(link.branch);
                });
                if let Some(course) = course {
                    w.optional_field(field::COURSE, |w| course.emit(w));
                }
            }
            RoutedBody::Unanswered(why) => {
                head(w, kind::UNANSWERED);
                w.text(why);
            }
            RoutedBody::AskHop(channel) => {
                head(w, kind::ASK_HOP);
                w.channel(channel);
            }
            RoutedBody::Hop(facts) => {
                head(w, kind::HOP);
                facts.emit(w);
            }
        }
    }

    /// Of a message of this type; none if it is another's.
    pub(super) fn parse(kind: u16, r: &mut Reader<'_>) -> Option<Result<Self, ParseError>> {
        (kind::ASK_SERVICES..=kind::HOP).contains(&kind).then(|| Self::parse_body(kind, r))
    }

    fn parse_body(kind: u16, r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let id = r.u64("routed id")?;
        let (path, position) = parse_path(r)?;
        let body = match kind {
            kind::ASK_SERVICES => RoutedBody::AskServices,
            kind::SERVICES => {
                RoutedBody::Services(r.list(limits::SERVICES_MAX, "services", |r| {
                    Ok(ServiceInfo {
                        name: r.service("service")?,
                        source: r.bool("service source")?,
                        busy: r.bool("service busy")?,
                    })
                })?)
            }
            kind::ASK_LINKS => RoutedBody::AskLinks {
                course: r.optional_field(field::COURSE, "ask course", |_| Ok(()))?.is_some(),
            },
            kind::LINKS => {
                let last = r.bool("links last")?;
                let links = r.list(limits::LINKS_PER_PIECE, "links", |r| {
                    Ok(LinkInfo {
                        peer: r.peer("link peer")?,
                        capacity: r.bandwidth("link capacity")?,
                        branch: r.bool("link branch")?,
                    })
                })?;
                let course = r.optional_field(field::COURSE, "links course", Course::parse)?;
                RoutedBody::Links { links, last, course }
            }
            kind::UNANSWERED => RoutedBody::Unanswered(r.text("unanswered")?),
            kind::ASK_HOP => RoutedBody::AskHop(r.channel("channel")?),
            kind::HOP => RoutedBody::Hop(Box::new(HopFacts::parse(r)?)),
            _ => return Err(ParseError::new("message type", 0)),
        };
        Ok(Self { id, path, position, body })
    }
}
