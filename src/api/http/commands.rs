//! `POST /api/command`: the JSON commands of the original system, with typed results (A26).
//!
//! One route for programs that speak them. A *peer* of `new_peer` and `rem_peer` is a link of this one:
//! nothing here starts or stops the daemon of another host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use utoipa::ToSchema;

use super::App;
use super::body;
use super::changes::{Opened, ask_to_open, close_channel, drop_link};
use super::error::{ApiError, Json};
use super::openapi::Errors;
use crate::api::dto::{
    AddLink, ChannelRow, LinkReply, LinkRow, NamedPath, Open, OpenReply, PathChoice, PeerRow,
    QueueRow, Request, StatusReply, TreeReply,
};
use crate::limits;
use crate::types::{Bandwidth, PeerName, Reject, ServiceName};

/// A command by its name in `command`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Command {
    /// Ask for a channel.
    ReqConn(ReqConn),
    /// Close a channel, by id or name.
    CloseConn { channel: String },
    /// Gain a link to a neighbour.
    NewPeer(AddLink),
    /// Drop the link to a neighbour.
    RemPeer { peer: PeerName },
    /// Send one datagram into a channel that was asked for here.
    SendData(SendData),
    /// Everything this peer knows.
    GetState,
    /// Start a new computation of the tree.
    StartMst,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReqConn {
    peer: PeerName,
    service: ServiceName,
    bandwidth_bps: Bandwidth,
    /// Missing: max(64 kbit/s, 2 %); 0: one way only.
    bandwidth_back_bps: Option<Bandwidth>,
    name: Option<ServiceName>,
    /// Missing: 5 seconds.
    deadline_ms: Option<u64>,
    /// Stand in line for room until the deadline.
    #[serde(default)]
    wait: bool,
    /// Do not seal it.
    #[serde(default)]
    plain: bool,
    /// The same request under the same key is one reservation.
    idempotency_key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendData {
    /// By id or name.
    channel: String,
    /// Text, or ...
    data: Option<String>,
    /// ... bytes, one of the two.
    data_base64: Option<String>,
}

/// What came of a command, by its kind in `result`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(super) enum CommandResult {
    Open {
        channel: OpenReply,
    },
    /// `GET /api/requests/{id}` has the final answer.
    Queued {
        request: QueueRow,
    },
    /// The overlay said no.
    Rejected {
        reason: Option<Reject>,
        detail: String,
    },
    Closed {
        channel: String,
    },
    Sent {
        channel: String,
        bytes: usize,
    },
    State {
        state: Box<PeerState>,
    },
    /// A link was added, removed or is there already.
    Link {
        link: LinkReply,
    },
    Started {
        session: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct PeerState {
    status: StatusReply,
    peers: Vec<PeerRow>,
    links: Vec<LinkRow>,
    tree: TreeReply,
    channels: Vec<ChannelRow>,
    queue: Vec<QueueRow>,
}

/// The JSON commands of the original system; each answer has its kind in `result`.
#[utoipa::path(post, path = "/api/command", tag = "commands", request_body = Command,
    responses((status = 200, body = CommandResult), Errors))]
pub(super) async fn command(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<CommandResult>, ApiError> {
    let result = match body::parse(&body)? {
        Command::ReqConn(asked) => req_conn(&app, asked).await,
        Command::CloseConn { channel } => {
            close_channel(&app, &channel).await.map(|()| CommandResult::Closed { channel })
        }
        Command::NewPeer(link) => {
            let link = app.daemon.read(&Request::AddLink(link)).await;
            link.map(|link| CommandResult::Link { link })
        }
        Command::RemPeer { peer } => {
            drop_link(&app, peer).await.map(|link| CommandResult::Link { link })
        }
        Command::SendData(data) => send_data(&app, data).await,
        Command::GetState => get_state(&app).await,
        Command::StartMst => {
            let session = app.daemon.read(&Request::Recompute).await;
            session.map(|session| CommandResult::Started { session })
        }
    };
    result.map(|result| Json(StatusCode::OK, result))
}

async fn req_conn(app: &Arc<App>, asked: ReqConn) -> Result<CommandResult, ApiError> {
    let deadline = u64::try_from(limits::OPEN_DEADLINE.as_millis()).expect("some seconds");
    let open = Open {
        peer: asked.peer,
        service: asked.service,
        bandwidth_bps: asked.bandwidth_bps,
        bandwidth_back_bps: asked.bandwidth_back_bps,
        name: asked.name,
        listen: None,
        deliver: None,
        from: None,
        path: PathChoice::Named(NamedPath::TreeThenWidest),
        avoid: Vec::new(),
        deadline_ms: asked.deadline_ms.unwrap_or(deadline),
        wait: asked.wait,
        protect: false,
        shape: false,
        keep: false,
        plain: asked.plain,
        idempotency_key: asked.idempotency_key,
    };
    match ask_to_open(app, open).await {
        Ok(Opened::Open(channel)) => Ok(CommandResult::Open { channel }),
        Ok(Opened::Queued(request)) => Ok(CommandResult::Queued { request }),
        // Its no is a result as good as its yes.
        Err(error) => match error.into_answer() {
            Ok(OpenReply { reason, detail, .. }) => Ok(CommandResult::Rejected { reason, detail }),
            Err(error) => Err(error),
        },
    }
}

async fn get_state(app: &App) -> Result<CommandResult, ApiError> {
    let state = PeerState {
        status: app.daemon.read(&Request::Status).await?,
        peers: app.daemon.read(&Request::Peers).await?,
        links: app.daemon.read(&Request::Links).await?,
        tree: app.daemon.read(&Request::Tree).await?,
        channels: app.daemon.read(&Request::Channels).await?,
        queue: app.daemon.read(&Request::Queue).await?,
    };
    Ok(CommandResult::State { state: Box::new(state) })
}

/// One datagram, as a program of this host would send it: to the channel's `listen`, from loopback.
async fn send_data(app: &App, asked: SendData) -> Result<CommandResult, ApiError> {
    let data = bytes_of(asked.data, asked.data_base64)?;
    let rows: Vec<ChannelRow> = app.daemon.read(&Request::Channels).await?;
    let is_meant =
        |row: &&ChannelRow| row.id == asked.channel || row.name.as_str() == asked.channel;
    let meant = rows.iter().filter(is_meant).find(|row| row.listen.is_some());
    let Some((row, listen)) = meant.and_then(|row| Some((row, row.listen?))) else {
        let text = format!("no channel {:.80} takes datagrams here", asked.channel);
        return Err(ApiError::unknown(text));
    };
    if row.state != "open" && row.state != "moving" {
        let text = format!("{} is {}: wait until it is open", row.id, row.state);
        return Err(ApiError::new(StatusCode::CONFLICT, "failed", text));
    }
    let most = usize::from(row.max_payload_bytes);
    if data.len() > most {
        let text = format!("{} bytes are too many for one datagram: at most {most}", data.len());
        return Err(ApiError::usage(text));
    }
    send_to(listen, &data).await.map_err(|error| {
        let text = format!("{listen} does not take it: {error}");
        ApiError::new(StatusCode::CONFLICT, "failed", text)
    })?;
    Ok(CommandResult::Sent { channel: row.id.clone(), bytes: data.len() })
}

fn bytes_of(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, ApiError> {
    let bytes = match (text, base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => BASE64
            .decode(base64)
            .map_err(|error| ApiError::usage(format!("data_base64 is not base64: {error}")))?,
        (Some(_), Some(_)) | (None, None) => {
            return Err(ApiError::usage("write either `data` or `data_base64`"));
        }
    };
    if bytes.is_empty() {
        return Err(ApiError::usage("there is nothing to send"));
    }
    Ok(bytes)
}

async fn send_to(listen: SocketAddr, data: &[u8]) -> std::io::Result<()> {
    let loopback: IpAddr = match listen {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let to = if listen.ip().is_unspecified() { loopback } else { listen.ip() };
    let socket = UdpSocket::bind((loopback, 0)).await?;
    socket.send_to(data, (to, listen.port())).await.map(drop)
}
