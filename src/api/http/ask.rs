//! A client of the daemon's local socket that does not block: one connection, one request, its answer lines.
//!
//! At most [`limits::HTTP_ASKS_MAX`] questions are asked at a time and [`limits::HTTP_WAITS_MAX`] requests
//! stand in line, so that the command line always finds a place. Answers are passed on unread where they
//! can be.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::ApiError;
use crate::api::dto::{Reply, Request};
use crate::limits;

/// The daemon of this process, by its local socket.
#[derive(Debug)]
pub(super) struct Daemon {
    socket: PathBuf,
    asks: Arc<Semaphore>,
    waits: Arc<Semaphore>,
}

/// The answer lines of one request; hangs up when dropped.
#[derive(Debug)]
pub(super) struct Lines {
    reader: BufReader<UnixStream>,
    /// Of a line that has not ended yet: [`Self::next`] may be dropped and called again.
    line: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl Daemon {
    pub(super) fn new(socket: PathBuf) -> Self {
        let places = |many| Arc::new(Semaphore::new(many));
        Self { socket, asks: places(limits::HTTP_ASKS_MAX), waits: places(limits::HTTP_WAITS_MAX) }
    }

    /// The one answer to a question that the daemon answers itself.
    pub(super) async fn ask(&self, request: &Request) -> Result<Box<RawValue>, ApiError> {
        self.ask_for(Duration::ZERO, request).await
    }

    /// The one answer to a question that takes up to `deadline` in the overlay.
    pub(super) async fn ask_for(
        &self,
        deadline: Duration,
        request: &Request,
    ) -> Result<Box<RawValue>, ApiError> {
        let mut lines = self.lines(request).await?;
        let wait = deadline + limits::CLIENT_ANSWER_MAX;
        match timeout(wait, lines.next()).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(gone()),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let text = format!("the daemon did not answer within {} ms", wait.as_millis());
                Err(ApiError::timeout(text))
            }
        }
    }

    /// An answer in its shape.
    pub(super) async fn read<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ApiError> {
        shape(&self.ask(request).await?)
    }

    /// Lines as they come.
    pub(super) async fn lines(&self, request: &Request) -> Result<Lines, ApiError> {
        let place = timeout(limits::HTTP_PLACE_WAIT, Arc::clone(&self.asks).acquire_owned()).await;
        match place {
            Ok(Ok(place)) => self.connect(request, place).await,
            Ok(Err(_)) | Err(_) => {
                let most = limits::HTTP_ASKS_MAX;
                Err(ApiError::busy(format!("{most} questions are being asked already: try again")))
            }
        }
    }

    /// The same for a request that stands in line.
    pub(super) async fn stand(&self, request: &Request) -> Result<Lines, ApiError> {
        match Arc::clone(&self.waits).try_acquire_owned() {
            Ok(place) => self.connect(request, place).await,
            Err(_) => {
                let most = limits::HTTP_WAITS_MAX;
                Err(ApiError::busy(format!("{most} requests of the web API stand in line already")))
            }
        }
    }

    async fn connect(
        &self,
        request: &Request,
        place: OwnedSemaphorePermit,
    ) -> Result<Lines, ApiError> {
        let mut line = serde_json::to_vec(request).expect("requests have text keys only");
        line.push(b'\n');
        let mut stream = UnixStream::connect(&self.socket).await.map_err(|_| gone())?;
        // A refusal may have come meanwhile: reading tells.
        let _ = stream.write_all(&line).await;
        Ok(Lines { reader: BufReader::new(stream), line: Vec::new(), _place: place })
    }
}

impl Lines {
    /// The next line; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Box<RawValue>>, ApiError> {
        let room = limits::REPLY_BYTES_MAX.saturating_sub(self.line.len()) as u64;
        let mut bounded = (&mut self.reader).take(room);
        bounded.read_until(b'\n', &mut self.line).await.map_err(|_| gone())?;
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Ok(None);
        }
        match serde_json::from_slice::<Reply<Box<RawValue>>>(&line) {
            Ok(Reply::Ok(value)) => Ok(Some(value)),
            Ok(Reply::Error(failure)) => Err(failure.into()),
            // Cut short: the daemon has stopped.
            Err(_) => Err(gone()),
        }
    }
}

/// A value of the daemon in its shape.
pub(super) fn shape<T: DeserializeOwned>(value: &RawValue) -> Result<T, ApiError> {
    serde_json::from_str(value.get()).map_err(|error| {
        let text = format!("the daemon's answer is not understood: {error}");
        ApiError::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "failed", text)
    })
}

fn gone() -> ApiError {
    ApiError::busy("the daemon stops")
}
