//! The web API of a daemon: REST, events and pages on one listener, health on another.
//!
//! A view that nothing depends on: its own thread, `spanway-api`, with its own runtime, and a client of the
//! daemon's local socket like every other program. What a stranger does here costs neither the control
//! lane nor a worker anything. Everything is bounded (`limits`, "Web API").
//!
//! ```text
//! browser ─► serve: bounded connections ─► guard: Host, Origin, token, type, size, time
//!                ─► routes ─► ask: one line to the local socket ─► the control loop
//!                ─► live: events, and what pages show, to every stream
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `serve` | listeners, connections, who is let go when there are too many |
//! | `guard` | what a request has to have before anything is done for it |
//! | `token` | the secret, and its file |
//! | `body` | strict JSON |
//! | `error` | answers that say what is wrong |
//! | `ask` | one request to the daemon, as a client of its local socket |
//! | `routes` | the routes that look, `changes` those that change something |
//! | `requests` | channels that stand in line, and their final answers |
//! | `commands` | the JSON commands of the original |
//! | `live` | server-sent events |
//! | `health` | the second listener |
//! | `openapi` | the description |
//! | `web` | the files of the pages |

mod ask;
mod body;
mod changes;
mod commands;
mod error;
mod guard;
mod health;
mod live;
mod openapi;
mod requests;
mod routes;
mod serve;
pub mod token;
mod web;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use self::ask::Daemon;
use self::guard::Guard;
use self::live::Live;
use self::requests::Requests;
use self::token::{Token, TokenError};
use crate::config::ApiSection;
use crate::limits;

/// Why there is no web API.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("cannot listen on TCP {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("cannot start the thread of the web API: {0}")]
    Thread(io::Error),
}

/// Listeners and token, before the daemon has a local socket.
#[derive(Debug)]
pub struct Bound {
    section: ApiSection,
    token: Token,
    listener: TcpListener,
    internal: Option<TcpListener>,
}

/// The running thread; ends when this is dropped.
#[derive(Debug)]
pub struct Http {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What all requests share.
struct App {
    daemon: Daemon,
    requests: Requests,
    live: Live,
}

impl Bound {
    /// Takes the ports and reads the token, which is made if it is missing.
    pub fn new(section: ApiSection) -> Result<Self, HttpError> {
        let token = Token::load_or_make(&section.token_file)?;
        let listener = listen(section.listen)?;
        let internal = section.internal.map(listen).transpose()?;
        Ok(Self { section, token, listener, internal })
    }

    /// Serves from a thread of its own, which takes the CPUs of the calling one.
    pub fn start(self, local_socket: PathBuf) -> Result<Http, HttpError> {
        let (stop, stopped) = watch::channel(false);
        let thread = thread::Builder::new().name("spanway-api".to_owned()).spawn(move || {
            if let Err(error) = run(self, local_socket, stopped) {
                tracing::error!(%error, "the web API has ended");
            }
        });
        Ok(Http { stop, thread: Some(thread.map_err(HttpError::Thread)?) })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic of it was logged, and is not the daemon's.
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, HttpError> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted daemon must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(limits::HTTP_BACKLOG)?;
        Ok(socket.into())
    };
    listen().map_err(|source| HttpError::Listen { address, source })
}

fn run(bound: Bound, local_socket: PathBuf, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let Bound { section, token, listener, internal } = bound;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let app = Arc::new(App {
        daemon: Daemon::new(local_socket),
        requests: Requests::default(),
        live: Live::default(),
    });
    runtime.block_on(async {
        let guard = Guard::new(&section, section.listen, Some(token));
        tracing::info!(listen = %section.listen, base_path = section.base_path, "web API is running");
        let public = serve::Site::new(guard, routes::router(Arc::clone(&app)));
        let places = public.places();
        tokio::spawn(serve::serve(tokio::net::TcpListener::from_std(listener)?, public));
        if let (Some(internal), Some(address)) = (internal, section.internal) {
            let guard = Guard::new(&section, address, None);
            tracing::info!(listen = %address, "health is served");
            let site = serve::Site::new(guard, health::router(app));
            tokio::spawn(serve::serve(tokio::net::TcpListener::from_std(internal)?, site));
        }
        // The sender is dropped with the daemon, which is the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        // Streams end with those of the daemon; whatever else does not, ends now.
        let _ = tokio::time::timeout(limits::HTTP_STOP_MAX, places.answered()).await;
        io::Result::Ok(())
    })?;
    runtime.shutdown_timeout(limits::HTTP_STOP_MAX);
    Ok(())
}
